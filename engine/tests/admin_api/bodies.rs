//! Bodies that never end: whoever is refused is told so at once, and nobody goes on listening to him.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Api, DEVICE_KEY};

/// Longer than anything takes that ends by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first line of what is answered while `more` is sent on and on, until the server hangs up.
async fn answer_until_closed(api: &Api, head: String, more: &[u8]) -> String {
    let socket = tokio::net::TcpStream::connect(api.addr).await.unwrap();
    let (mut from, mut to) = socket.into_split();
    let sending = async {
        to.write_all(head.as_bytes()).await.unwrap();
        while to.write_all(more).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await
    };
    let mut answer = Vec::new();
    let reading = async {
        // A reset is an end as well: it is what comes of sending to who has hung up.
        while from.read_buf(&mut answer).await.is_ok_and(|num_read| num_read > 0) {}
    };
    tokio::select! {
        () = sending => unreachable!("it waits for ever"),
        closed = tokio::time::timeout(PATIENCE, reading) => closed.expect("the server goes on listening"),
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn nobody_listens_on_to_a_body_without_end_that_was_refused() {
    let api = Api::start().await;
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let token = format!("Authorization: Bearer {}\r\n", api.admin);
    for (path, more_head, status) in [
        (format!("/receive-data?apiKey={DEVICE_KEY}"), "", "413"),
        ("/receive-data?apiKey=".to_owned(), "", "403"),
        ("/organization".to_owned(), token.as_str(), "413"),
        ("/organization".to_owned(), "", "401"),
        ("/auth/login".to_owned(), "", "413"),
        ("/nowhere".to_owned(), "", "404"),
    ] {
        let head = format!(
            "POST /api/v1{path} HTTP/1.1\r\nHost: x\r\n{more_head}Content-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        let answer = answer_until_closed(&api, head, chunk.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_chunked_body_that_ends_keeps_its_connection() {
    let api = Api::start().await;
    let mut socket = tokio::net::TcpStream::connect(api.addr).await.unwrap();
    for _ in 0..3 {
        let request = format!(
            "POST /api/v1/receive-data?apiKey={DEVICE_KEY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\n{{}}\r\n0\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let num_read = tokio::time::timeout(PATIENCE, socket.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..num_read].starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer[..num_read]));
    }
}

#[tokio::test]
async fn a_device_that_nobody_knows_is_refused_before_its_body() {
    let api = Api::start().await;
    let head = "POST /api/v1/receive-data?apiKey=00000000-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: x\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let answer = answer_until_closed(&api, head.to_owned(), b"").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}
