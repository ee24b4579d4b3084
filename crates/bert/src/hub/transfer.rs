//! The download of one file: resumed, retried, watched.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};

use indicatif::{ProgressBar, ProgressStyle};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::network;
use super::settings::Settings;
use crate::hub::options::{DownloadProgress, HubOptions};

/// The most bytes of a read.
const CHUNK: usize = 1 << 17;

/// What is downloaded, and how.
pub(super) struct Transfer<'a> {
    pub(super) settings: &'a Settings,
    pub(super) agent: &'a Agent,
    pub(super) url: &'a str,
    /// The whole file's bytes, if the hub says.
    pub(super) total: Option<u64>,
    /// Told how many bytes there are, as they come.
    pub(super) report: &'a dyn Fn(u64),
}

/// Why a download did not end.
pub(super) enum Trouble {
    Network {
        reason: String,
        done: u64,
        total: Option<u64>,
    },
    /// The hub does not give the file.
    Refused(StatusCode),
    Disk(std::io::Error),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Transfer<'_> {
    /// Appends to `file` what it lacks. This is tried again as long as a try brings it further.
    ///
    /// A file is never emptied, but written anew: where locks do not work, two processes may write to it
    /// at once, and both write the same bytes to the same places.
    pub(super) fn complete(&self, file: &mut File) -> Result<(), Trouble> {
        let mut done = file.seek(SeekFrom::End(0))?;
        loop {
            let before = done;
            match self.go_on(file, &mut done) {
                Err(Trouble::Network { .. }) if done > before => {}
                Ok(()) => return Ok(file.set_len(done)?),
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// One request for what comes after the first `done` bytes.
    fn go_on(&self, file: &mut File, done: &mut u64) -> Result<(), Trouble> {
        let trouble = |reason, done| Trouble::Network { reason, done, total: self.total };
        match self.total {
            Some(total) if *done > total => *done = file.seek(SeekFrom::Start(0))?,
            Some(total) if *done == total && total > 0 => return Ok(()),
            _ => {}
        }
        let mut request = self.settings.prepare(self.agent.get(self.url));
        if *done > 0 {
            request = request.header("Range", format!("bytes={done}-"));
        }
        let stall = self.settings.network.stall;
        let answer = request.call();
        let response = answer.map_err(|error| trouble(network::reason(&error, stall), *done))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response) == Some(*done) => {}
            // A hub that does not know ranges.
            StatusCode::OK => *done = file.seek(SeekFrom::Start(0))?,
            // More than the whole file, or another part.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if *done > 0 => {
                *done = file.seek(SeekFrom::Start(0))?;
                return self.go_on(file, done);
            }
            status => return Err(Trouble::Refused(status)),
        }
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(trouble(network::reason(&error.into(), stall), *done)),
            };
            let ended = count == 0;
            file.write_all(&chunk[..count])?;
            *done += count as u64;
            if self.total.is_some_and(|total| *done > total || ended && *done < total) {
                return Err(trouble("the file has another length".to_owned(), *done));
            }
            if ended {
                return Ok(());
            }
            (self.report)(*done);
        }
    }
}

/// The first byte of a part, as its `Content-Range` says.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
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
