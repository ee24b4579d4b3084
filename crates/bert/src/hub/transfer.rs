//! The download of one file: resumed, retried, watched.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::network;
use super::settings::Settings;
use crate::hub::options::{DownloadProgress, HubOptions};

/// The most bytes of a read.
const CHUNK: usize = 1 << 17;

/// What is downloaded, and how.
pub(super) struct Transfer<'a> {
    pub(super) settings: &'a Settings,
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
    /// Writes to `file` what comes after its first `done` bytes. This is tried again as long as a try
    /// brings it further.
    ///
    /// A file is never emptied, but written anew: where locks do not work, two processes may write to it
    /// at once, and both write the same bytes to the same places.
    pub(super) fn complete(&self, file: &mut File, mut done: u64) -> Result<(), Trouble> {
        file.seek(SeekFrom::Start(done))?;
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
        match self.total {
            Some(total) if *done > total => *done = file.seek(SeekFrom::Start(0))?,
            Some(total) if *done == total && total > 0 => return Ok(()),
            _ => {}
        }
        let trouble = |reason, done| Trouble::Network { reason, done, total: self.total };
        let response =
            self.settings.get(self.url, *done).map_err(|reason| trouble(reason, *done))?;
        let part = Part::of(&response);
        match response.status() {
            StatusCode::PARTIAL_CONTENT if part.from == Some(*done) => {}
            // A hub that does not know ranges.
            StatusCode::OK => *done = file.seek(SeekFrom::Start(0))?,
            // More than the whole file, or another part.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if *done > 0 => {
                *done = file.seek(SeekFrom::Start(0))?;
                return self.go_on(file, done);
            }
            status => return Err(Trouble::Refused(status)),
        }
        let total = self.total.or(part.total);
        let trouble = |reason, done| Trouble::Network { reason, done, total };
        let stall = self.settings.network.stall;
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
            if total.is_some_and(|total| *done > total || ended && *done < total) {
                return Err(trouble("the hub sends another number of bytes".to_owned(), *done));
            }
            if ended {
                return Ok(());
            }
            (self.report)(*done);
        }
    }
}

/// What an answer says of the bytes that it brings.
struct Part {
    /// The first byte's place in the file.
    from: Option<u64>,
    /// The whole file's bytes.
    total: Option<u64>,
}

impl Part {
    fn of(response: &Response<Body>) -> Self {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let range = header("content-range").and_then(|it| it.strip_prefix("bytes "));
        let Some((part, total)) = range.and_then(|it| it.split_once('/')) else {
            let length = header("content-length").and_then(|it| it.parse().ok());
            return Self { from: None, total: length };
        };
        let from = part.split('-').next().and_then(|from| from.parse().ok());
        Self { from, total: total.parse().ok() }
    }
}

/// Whether a file is the one that its ETag stands for, as far as that can be told: for large files the
/// hub's ETag is the SHA-256 of the content.
pub(super) fn is_whole(file: &mut File, etag: &str) -> std::io::Result<bool> {
    if etag.len() != 64 || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(true);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    std::io::copy(file, &mut hash)?;
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hash.eq_ignore_ascii_case(etag))
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
