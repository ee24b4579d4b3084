//! Bytes from the network, and their progress.

use std::io::{IsTerminal, Read};
use std::sync::mpsc;

use indicatif::{ProgressBar, ProgressStyle};
use ureq::Body;

use crate::hub::options::{DownloadProgress, HubOptions};

/// The number of bytes per message.
const CHUNK: usize = 1 << 20;

/// Reads a body on its own thread, because ureq cannot limit how long a read stalls. The channel is
/// closed at the end of the body.
pub(super) fn read_in_background(body: Body) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let mut reader = body.into_reader();
        loop {
            let mut chunk = Vec::new();
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
            let message = match read {
                Ok(0) => return,
                Ok(_) => Ok(chunk),
                Err(error) => Err(error),
            };
            let ended = message.is_err();
            // The receiver is dropped when the download has failed.
            if sender.send(message).is_err() || ended {
                return;
            }
        }
    });
    receiver
}

/// The caller's callback, or a progress bar if standard error is a terminal.
pub(super) struct Bar<'a> {
    options: &'a HubOptions,
    file: &'a str,
    total: Option<u64>,
    bar: ProgressBar,
}

impl<'a> Bar<'a> {
    pub(super) fn new(options: &'a HubOptions, file: &'a str, total: Option<u64>) -> Self {
        let bar = if options.on_progress.is_some() || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            ProgressBar::new(total.unwrap_or_default())
                .with_style(
                    ProgressStyle::with_template(style)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                )
                .with_message(file.to_owned())
        };
        Self { options, file, total, bar }
    }

    pub(super) fn report(&self, done: u64) {
        self.bar.set_position(done);
        if let Some(callback) = &self.options.on_progress {
            callback(DownloadProgress { file: self.file.to_owned(), done, total: self.total });
        }
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
