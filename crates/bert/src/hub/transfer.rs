//! Bytes from the network, and their progress.

use std::io::{IsTerminal, Read};
use std::sync::mpsc;

use indicatif::{ProgressBar, ProgressStyle};
use ureq::Body;

use crate::hub::options::{DownloadProgress, HubOptions};

/// The number of bytes per message.
const CHUNK: u64 = 1 << 20;

/// Reads a body on its own thread, because ureq cannot limit how long a read stalls. The channel is
/// closed at the end of the body.
pub(super) fn read_in_background(body: Body) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let mut reader = body.into_reader();
        loop {
            let mut chunk = Vec::new();
            let message = match reader.by_ref().take(CHUNK).read_to_end(&mut chunk) {
                Ok(0) => return,
                read => read.map(|_| chunk),
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

/// What reports the number of bytes received: the caller's callback, or a progress bar if standard error
/// is a terminal. The bar vanishes when this is dropped.
pub(super) fn progress(options: &HubOptions, file: &str, total: Option<u64>) -> impl Fn(u64) {
    let bar = if options.on_progress.is_some() || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style);
        ProgressBar::new(total.unwrap_or_default())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(file.to_owned())
    };
    move |done| {
        bar.set_position(done);
        if let Some(callback) = &options.on_progress {
            callback(DownloadProgress { file: file.to_owned(), done, total });
        }
    }
}
