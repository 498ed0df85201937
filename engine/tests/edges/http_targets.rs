//! HTTP push: what goes out, what each outcome means, and where nothing may go.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluse_schema::delivery::{Attempt, AttemptClass};
use sluse_schema::secret::Secret;
use sluse_schema::target::TargetKind;

use crate::certificates::certificates;
use crate::receiver::{Receiver, Reply};
use crate::targets::{USER_AGENT, delivery, http, http_sender, try_sender};

const BODY: &[u8] = br#"{"z":1.0,"u":"\u00e6","n":12345678901234567890}"#;

async fn attempt_on(receiver: &Receiver) -> Attempt {
    let sender = http_sender("127.0.0.0/8", http(format!("http://127.0.0.1:{}/in?x=1", receiver.port)));
    sender.send(&delivery(1), Bytes::from_static(BODY)).await
}

#[tokio::test]
async fn a_delivery_goes_out_as_the_reference_sends_it_plus_our_own_headers() {
    let receiver = Receiver::start(Reply::status("204 No Content")).await;
    let mut target = http(format!("http://localhost:{}/in?x=1", receiver.port));
    target.authorization = Secret::new("Basic abc");
    let sender = http_sender("127.0.0.0/8", target);
    let attempt = sender.send(&delivery(1), Bytes::from_static(BODY)).await;
    assert_eq!((attempt.class, attempt.status_code), (AttemptClass::Delivered, Some(204)));
    let got = receiver.got.lock().unwrap()[0].clone();
    assert_eq!(got.request_line, "POST /in?x=1 HTTP/1.1");
    assert_eq!(got.body, BODY);
    let mut headers = got.headers.clone();
    headers.sort();
    let expected = [
        ("accept", "application/json, text/plain, */*"),
        ("authorization", "Basic abc"),
        ("content-length", &BODY.len().to_string()),
        ("content-type", "application/json"),
        ("host", &format!("localhost:{}", receiver.port)),
        ("idempotency-key", &delivery(1).idempotency_key()),
        ("user-agent", USER_AGENT),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// The recorded bodies of the reference, through a real connection.
#[tokio::test]
async fn recorded_bodies_arrive_byte_for_byte() {
    let receiver = Receiver::start(Reply::status("200 OK")).await;
    let sender = http_sender("127.0.0.0/8", http(format!("http://127.0.0.1:{}/in", receiver.port)));
    let bodies = [
        "{\"a\":1,\"b\":0.30000000000000004,\"h\":\"æ \u{2028}\",\"i\":[null,null]}",
        "\"just text\"",
        "[1,{\"x\":2}]",
    ];
    for body in bodies {
        assert_eq!(sender.send(&delivery(1), Bytes::from(body)).await.class, AttemptClass::Delivered);
    }
    let got: Vec<Vec<u8>> = receiver.got.lock().unwrap().iter().map(|got| got.body.clone()).collect();
    assert_eq!(got, bodies.map(|body| body.as_bytes().to_vec()));
}

#[tokio::test]
async fn connections_are_kept_alive_also_over_answers_with_a_body() {
    let reply = Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    let receiver = Receiver::start(reply).await;
    let sender = http_sender("127.0.0.0/8", http(format!("http://127.0.0.1:{}/", receiver.port)));
    for event in 0..20 {
        assert_eq!(sender.send(&delivery(event), Bytes::from_static(BODY)).await.class, AttemptClass::Delivered);
    }
    assert_eq!((receiver.num_got(), receiver.num_connections.load(Ordering::SeqCst)), (20, 1));
}

#[tokio::test]
async fn a_refusal_brings_status_answer_and_class() {
    let reply = Reply::Bytes(b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 9\r\n\r\nno such x".to_vec());
    let attempt = attempt_on(&Receiver::start(reply).await).await;
    assert_eq!((attempt.class, attempt.status_code), (AttemptClass::Refused, Some(422)));
    assert_eq!(attempt.answer, "no such x");
    assert_eq!(attempt.message, "Unprocessable Entity");
}

#[tokio::test]
async fn too_many_requests_brings_its_wait() {
    let seconds =
        Reply::Bytes(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".to_vec());
    let attempt = attempt_on(&Receiver::start(seconds).await).await;
    assert_eq!((attempt.class, attempt.retry_after_ms), (AttemptClass::Transient, Some(7000)));
    let at = (chrono::Utc::now() + Duration::from_secs(60)).format("%a, %d %b %Y %H:%M:%S GMT");
    let date = format!("HTTP/1.1 503 Service Unavailable\r\nRetry-After: {at}\r\nContent-Length: 0\r\n\r\n");
    let attempt = attempt_on(&Receiver::start(Reply::Bytes(date.into_bytes())).await).await;
    let wait_ms = attempt.retry_after_ms.unwrap();
    assert!((50_000..=60_000).contains(&wait_ms), "{wait_ms}");
}

#[tokio::test]
async fn an_answer_of_10_mb_is_cut_at_a_kilobyte_and_not_read_to_its_end() {
    let receiver = Receiver::start(Reply::Flood(10_000_000)).await;
    let attempt = attempt_on(&receiver).await;
    assert_eq!((attempt.class, attempt.status_code), (AttemptClass::Transient, Some(500)));
    assert_eq!(attempt.answer.len(), Attempt::ANSWER_BYTES_MAX);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let num_flooded = receiver.num_flooded.load(Ordering::SeqCst);
    assert!(num_flooded < 10_000_000, "all of it was read: {num_flooded} bytes");
}

#[tokio::test]
async fn a_receiver_that_never_answers_costs_the_timeout_and_no_more() {
    let receiver = Receiver::start(Reply::Hang).await;
    let mut target = http(format!("http://127.0.0.1:{}/?key=secret", receiver.port));
    target.timeout_ms = 300;
    let started_at = Instant::now();
    let attempt = http_sender("true", target).send(&delivery(1), Bytes::from_static(BODY)).await;
    assert!(started_at.elapsed() < Duration::from_secs(2));
    assert_eq!(attempt.class, AttemptClass::Transient);
    assert!(attempt.message.contains("300 ms") && !attempt.message.contains("secret"), "{}", attempt.message);
}

#[tokio::test]
async fn a_2xx_is_delivered_although_its_body_never_comes() {
    let receiver = Receiver::start(Reply::HangInBody).await;
    let started_at = Instant::now();
    let attempt = attempt_on(&receiver).await;
    assert_eq!((attempt.class, attempt.status_code), (AttemptClass::Delivered, Some(200)));
    assert!(started_at.elapsed() < Duration::from_millis(1500), "the body was waited for");
}

#[tokio::test]
async fn nobody_listening_is_transient_and_says_where() {
    let port = crate::broker::free_port();
    let attempt =
        http_sender("true", http(format!("http://me:secret@127.0.0.1:{port}/"))).send(&delivery(1), Bytes::new()).await;
    assert_eq!(attempt.class, AttemptClass::Transient);
    assert!(attempt.message.contains(&port.to_string()) && attempt.message.contains("refused"), "{}", attempt.message);
    assert!(!attempt.message.contains("secret"), "{}", attempt.message);
}

#[tokio::test]
async fn redirects_are_not_followed_not_even_to_where_we_may_go() {
    let aim = Receiver::start(Reply::status("200 OK")).await;
    let reply = format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n", aim.port);
    let receiver = Receiver::start(Reply::Bytes(reply.into_bytes())).await;
    let attempt = attempt_on(&receiver).await;
    assert_eq!((attempt.class, attempt.status_code), (AttemptClass::Misconfigured, Some(302)));
    assert_eq!(aim.num_connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn private_places_are_refused_however_they_are_spelled_and_never_connected_to() {
    let receiver = Receiver::start(Reply::status("200 OK")).await;
    let port = receiver.port;
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fd00:ec2::254]",
    ] {
        let sender = http_sender("false", http(format!("http://{host}:{port}/")));
        let attempt = sender.send(&delivery(1), Bytes::from_static(BODY)).await;
        assert_eq!(attempt.class, AttemptClass::Misconfigured, "{host}: {}", attempt.message);
        assert!(attempt.message.contains("SLUSE_ALLOW_PRIVATE_TARGETS"), "{host}: {}", attempt.message);
    }
    assert_eq!(receiver.num_connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_list_of_networks_opens_those_and_no_others() {
    let receiver = Receiver::start(Reply::status("200 OK")).await;
    let class = async |allowed, host: &str| {
        let mut target = http(format!("http://{host}:{}/", receiver.port));
        target.timeout_ms = 300;
        http_sender(allowed, target).send(&delivery(1), Bytes::new()).await.class
    };
    assert_eq!(class("10.0.0.0/8,127.0.0.1/32", "127.0.0.1").await, AttemptClass::Delivered);
    assert_eq!(class("10.0.0.0/8,127.0.0.1/32", "localhost").await, AttemptClass::Delivered);
    assert_eq!(class("10.0.0.0/8,127.0.0.1/32", "127.0.0.2").await, AttemptClass::Misconfigured);
    assert_eq!(class("10.0.0.0/8", "localhost").await, AttemptClass::Misconfigured);
    assert_eq!(class("true", "127.0.0.1").await, AttemptClass::Delivered);
}

#[tokio::test]
async fn tls_is_verified_and_a_targets_own_authority_is_trusted() {
    let certificates = certificates();
    let receiver = Receiver::start_tls(Reply::status("200 OK"), &certificates).await;
    let url = format!("https://localhost:{}/", receiver.port);

    let stranger = http_sender("true", http(&url)).send(&delivery(1), Bytes::from_static(BODY)).await;
    assert_eq!(stranger.class, AttemptClass::Misconfigured);
    assert!(stranger.message.contains("TLS") && stranger.message.contains("UnknownIssuer"), "{}", stranger.message);

    let mut trusting = http(&url);
    trusting.ca_certificates = Some(certificates.authority.clone());
    let attempt = http_sender("true", trusting.clone()).send(&delivery(1), Bytes::from_static(BODY)).await;
    assert_eq!(attempt.class, AttemptClass::Delivered, "{}", attempt.message);

    trusting.url = format!("https://127.0.0.1:{}/", receiver.port);
    let other_name = http_sender("true", trusting).send(&delivery(1), Bytes::from_static(BODY)).await;
    assert_eq!(other_name.class, AttemptClass::Misconfigured, "{}", other_name.message);
}

#[test]
fn what_can_never_be_sent_to_is_said_when_the_sender_is_made() {
    for url in ["", "no url", "ftp://h/", "http://"] {
        assert!(try_sender("true", TargetKind::HttpPush(http(url))).is_err(), "{url:?}");
    }
    let mut wrong_ca = http("https://h/");
    wrong_ca.ca_certificates = Some("no certificate".into());
    assert!(try_sender("true", TargetKind::HttpPush(wrong_ca)).is_err());
    let fiware = try_sender("true", TargetKind::Fiware(http("http://h/"))).unwrap_err();
    assert!(fiware.to_string().contains("FIWARE"), "{fiware}");
}
