// fetch COUNT URL...: std::net::TcpStream, http:// alone.
use std::io::{Read, Write};
use std::net::TcpStream;

fn get(url: &str) -> std::io::Result<String> {
    let rest = url.trim_start_matches("http://");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let place = if host.contains(':') { host.to_string() } else { format!("{}:80", host) };
    let mut stream = TcpStream::connect(place)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    write!(stream, "GET /{} HTTP/1.0\r\nHost: {}\r\n\r\n", path, host)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split("\r\n\r\n").nth(1).unwrap_or("").trim().to_string())
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let count: usize = words[1].parse().unwrap();
    for i in 0..count {
        match get(&words[2 + i % (words.len() - 2)]) {
            Ok(body) => println!("got {}", body),
            Err(error) => println!("failed {}", error),
        }
    }
}
