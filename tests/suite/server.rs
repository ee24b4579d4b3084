//! A small HTTP server on loopback that plays the hub.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server is asked.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Whether the connection is encrypted.
    pub secure: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What it answers. A `HEAD` request gets no body.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub cut_at: Option<usize>,
    /// The number of pieces in which the body is sent, and the pause after each.
    pub pace: Option<(usize, Duration)>,
    /// How long the server waits before it answers.
    pub delay: Duration,
    /// How long it keeps the connection open afterwards.
    pub linger: Duration,
}

/// A server that stops when it is dropped.
pub struct Server {
    pub url: String,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer)
    }

    /// A server whose connections are encrypted with these certificates and this key.
    pub fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = listener.local_addr().unwrap();
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, its_log, its_stop) = (Arc::new(answer), log.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if its_stop.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log, tls) = (answer.clone(), its_log.clone(), tls.clone());
                let stream = stream.unwrap();
                std::thread::spawn(move || match tls {
                    None => serve(stream, false, &*answer, &log),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls).unwrap();
                        let mut stream = rustls::StreamOwned::new(connection, stream);
                        serve(&mut stream, true, &*answer, &log);
                        stream.conn.send_close_notify();
                        let _ = stream.flush();
                    }
                });
            }
        });
        Self { address, url: format!("{scheme}://{address}"), log, stop }
    }

    /// The requests so far, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// One request per connection, which may be one of a proxy.
fn serve(
    mut stream: impl Read + Write,
    secure: bool,
    answer: &dyn Fn(&Request) -> Answer,
    log: &Mutex<Vec<String>>,
) {
    let Some(first) = first_line(&mut stream, log) else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers = std::iter::from_fn(|| line(&mut stream, Vec::new()))
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect();
    log.lock().unwrap().push(format!("{method} {path}"));
    if method == "CONNECT" {
        stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").unwrap();
        return serve(stream, secure, answer, log);
    }
    let request = Request { method, path, headers, secure };
    let answer = answer(&request);
    std::thread::sleep(answer.delay);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let lengths = ["Content-Length", "Transfer-Encoding"];
    if !answer.headers.iter().any(|(name, _)| lengths.contains(name)) {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    // The client may have gone; that is its business.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let end = answer.cut_at.unwrap_or(answer.body.len());
        let (pieces, pause) = answer.pace.unwrap_or((1, Duration::ZERO));
        for piece in answer.body[..end].chunks(end.div_ceil(pieces).max(1)) {
            if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
        std::thread::sleep(answer.linger);
    }
}

/// The first line of a request, after the greeting of a SOCKS proxy's client, if there is one.
fn first_line(stream: &mut (impl Read + Write), log: &Mutex<Vec<String>>) -> Option<String> {
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    if first != [5] {
        return line(stream, first.to_vec());
    }
    // RFC 1928: methods, then version, command, address and port.
    let methods = read(stream, 1)[0];
    read(stream, methods);
    stream.write_all(&[5, 0]).unwrap();
    assert_eq!(read(stream, 4), [5, 1, 0, 3], "a connection to a host by its name");
    let length = read(stream, 1)[0];
    let host = String::from_utf8(read(stream, length)).unwrap();
    log.lock().unwrap().push(format!("SOCKS {host}"));
    read(stream, 2);
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    line(stream, Vec::new())
}

fn read(stream: &mut impl Read, count: u8) -> Vec<u8> {
    let mut bytes = vec![0; count.into()];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A line that begins with `bytes`, without its end.
fn line(stream: &mut impl Read, mut bytes: Vec<u8>) -> Option<String> {
    while !bytes.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    bytes.truncate(bytes.len() - 2);
    String::from_utf8(bytes).ok()
}
