use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Asks for a path over HTTP; gives the status and the body.
pub async fn get(address: impl std::fmt::Display, path: &str) -> (u16, String) {
    let address = address.to_string();
    let exchange = async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // Nobody answers this version in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an HTTP answer in 10 s");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The value of one series on the metrics page, such as `up{job="a"}`; 0 if it is not there.
pub async fn metric(address: impl std::fmt::Display, series: &str) -> u64 {
    let (status, page) = get(address, "/metrics").await;
    assert_eq!(status, 200, "{page}");
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}
