//! What devices send: accepted only when it is durable, refused before it costs anything.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Api, DEVICE_KEY};

fn url(api: &Api) -> String {
    format!("{}/receive-data?apiKey={DEVICE_KEY}", api.base)
}

#[tokio::test]
async fn an_arrival_is_handed_on_byte_for_byte() {
    let api = Api::start().await;
    let payload = " {\"t\": 21.50, \"n\": 1e400,\n \"s\": \"bl\\u00e5\"}  ";
    let response = api
        .client
        .post(url(&api))
        .header("content-type", "application/json; charset=utf-8")
        .header("idempotency-key", "event-7")
        .body(payload)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["cache-control"], "none");
    let by_header = api.client.post(format!("{}/receive-data/", api.base)).header("X-API-KEY", DEVICE_KEY).body("[]");
    assert_eq!(by_header.send().await.unwrap().status(), 204);
    let arrivals = api.intake.arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 2);
    assert_eq!(arrivals[0].payload, payload.as_bytes());
    assert_eq!(arrivals[0].event_id.as_deref(), Some("event-7"));
    assert_eq!(arrivals[0].content_type, "application/json; charset=utf-8");
    assert_eq!(arrivals[1].event_id, None);
}

#[tokio::test]
async fn what_is_wrong_gets_its_own_answer_and_is_not_handed_on() {
    let api = Api::start().await;
    let post = |url: String, content_type: &'static str, body: Vec<u8>| {
        let request = api.client.post(url).header("content-type", content_type).body(body);
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap_or_default())
        }
    };
    let json = "application/json";
    let no_key = format!("{}/receive-data", api.base);
    for (url, expected) in [
        (no_key.clone(), 403),
        (format!("{no_key}?apiKey="), 403),
        (format!("{no_key}?apiKey=00000000-0000-4000-8000-000000000000"), 403),
    ] {
        let (status, body) = post(url, json, b"{}".to_vec()).await;
        assert_eq!(status, expected);
        assert_eq!(body["message"], "MESSAGE.DEVICE-DOES-NOT-EXIST");
    }
    for (content_type, body, expected) in [
        ("text/plain", &b"{}"[..], 415),
        ("application/x-www-form-urlencoded", b"a=1", 415),
        (json, b"{", 400),
        (json, b"", 400),
        (json, b"7", 400),
        (json, b"{\"a\":\"\xff\"}", 400),
    ] {
        assert_eq!(post(url(&api), content_type, body.to_vec()).await.0, expected, "{body:?}");
    }
    let large = format!("\"{}\"", "x".repeat(262_144));
    assert_eq!(post(url(&api), json, format!("[{large}]").into_bytes()).await.0, 413);
    let long = api.client.post(url(&api)).header("idempotency-key", "x".repeat(129)).body("{}").send().await.unwrap();
    assert_eq!(long.status(), 400);
    assert!(api.intake.arrivals.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() {
    let api = Api::start().await;
    for path in ["/receive-data", "/organization"] {
        let mut socket = tokio::net::TcpStream::connect(api.addr).await.unwrap();
        let head = format!(
            "POST /api/v1{path}?apiKey={DEVICE_KEY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n",
            api.admin
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let num_read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..num_read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
    let api = Api::start().await;
    let mut socket = tokio::net::TcpStream::connect(api.addr).await.unwrap();
    let head = format!(
        "POST /api/v1/receive-data?apiKey={DEVICE_KEY} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    // 17 chunks of 16 KiB are more than 256 KiB; the server may hang up while they are being sent.
    for _ in 0..17 {
        if socket.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = vec![0; 1024];
    let num_read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..num_read].starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer[..num_read]));
}

#[tokio::test]
async fn gzip_is_unpacked_up_to_the_limit() {
    let api = Api::start().await;
    let pack = |data: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(data).unwrap();
        gzip.finish().unwrap()
    };
    let post = |encoding: &'static str, body: Vec<u8>| {
        let request = api.client.post(url(&api)).header("content-encoding", encoding).body(body);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(post("gzip", pack(b"{\"a\":1}")).await, 204);
    assert_eq!(api.intake.arrivals.lock().unwrap()[0].payload, &b"{\"a\":1}"[..]);
    assert_eq!(post("gzip", pack(&vec![b' '; 20_000_000])).await, 413);
    assert_eq!(post("gzip", b"not gzip".to_vec()).await, 400);
    assert_eq!(post("br", b"{}".to_vec()).await, 415);
}

#[tokio::test]
async fn what_cannot_be_made_durable_now_is_asked_for_again() {
    let api = Api::start().await;
    api.intake.is_away.store(true, Ordering::Relaxed);
    let send = || api.client.post(url(&api)).body("{}").send();
    let response = send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "2", "1.5 s are two whole ones");
    api.intake.is_away.store(false, Ordering::Relaxed);
    assert_eq!(send().await.unwrap().status(), 204);
    api.http.stop_intake();
    assert_eq!(send().await.unwrap().status(), 503);
    assert_eq!(api.get("/auth/me").await.0, 200, "administration goes on");
    assert!(api.http.stop(Duration::from_secs(5)).await, "nothing is in flight");
}
