//! The program itself with everything of this part switched on by its settings: TLS with certificates that change, headers, CORS,
//! limits, both log-in providers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use sluse_engine::send::tls::Authorities;

use crate::fixture::FRONTEND;
use crate::identity_provider::{Pair, ROLE, Say, assertion, posted, query, read_request, response, sign};
use crate::openid_provider::{CLIENT_ID, CLIENT_SECRET, Provider};

/// A `sluse serve`; a test that fails leaves none behind.
struct Program(Child);

/// It is ready.
struct Running {
    program: Program,
    plain: SocketAddr,
    tls: SocketAddr,
    /// Kept open: it goes on logging.
    _out: BufReader<std::process::ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // PostgreSQL is its child and goes with it when it is asked kindly.
        let _ = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
        for _ in 0..600 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(data_dir: &Path, settings: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluse"));
    for name in ["DATABASE_URL", "KAFKA_BROKERS", "REDIS_URL", "CHIRPSTACK_MQTT_URL", "SLUSE_CONFIG"] {
        command.env_remove(name);
    }
    let started = command
        .arg("serve")
        .env("SLUSE_DATA_DIR", data_dir)
        .env("SLUSE_HTTP_LISTEN", "127.0.0.1:0")
        .envs(settings.iter().copied())
        .current_dir(data_dir.parent().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut program = Program(started);
    let mut out = BufReader::new(program.0.stdout.take().unwrap());
    let (mut plain, mut tls, mut said) = (None, None, String::new());
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "ended early: {said}");
        let address = line.split("127.0.0.1:").nth(1).map(|rest| {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
        });
        if line.contains("the API listens for TLS") {
            tls = address;
        } else if line.contains("the API listens") {
            plain = address;
        }
        let is_ready = line.contains(": ready");
        said.push_str(&line);
        if is_ready {
            return Running { program, plain: plain.unwrap(), tls: tls.unwrap(), _out: out };
        }
    }
}

fn write_certificate(dir: &Path) -> Vec<u8> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("certificate.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.pem().into_bytes()
}

/// A browser that trusts this certificate and no other, and finds `localhost` at `address`.
fn browser(dir: &Path, trusted: &[u8], address: SocketAddr) -> reqwest::Client {
    let file = dir.join("trusted.pem");
    std::fs::write(&file, trusted).unwrap();
    let mut tls = (*Authorities::load(Some(&file)).unwrap().client_config(None, None).unwrap()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .resolve("localhost", address)
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}

#[tokio::test]
async fn it_serves_tls_and_logs_in_by_both_providers() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    // The private PostgreSQL runs as another user when this test runs as root.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let first = write_certificate(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (identity, service, openid) = (Pair::new("idp"), Pair::new("sluse"), Provider::start());
    let running = serve(
        &dir.path().join("data"),
        &[
            ("BACKEND_BASEURL", "https://localhost:8443/"),
            ("FRONTEND_BASEURL", FRONTEND),
            ("SLUSE__HTTP__TLS_LISTEN", "127.0.0.1:0"),
            ("SLUSE__HTTP__TLS_CERTIFICATE", &path("certificate.pem")),
            ("SLUSE__HTTP__TLS_KEY", &path("key.pem")),
            ("KOMBIT_ENTRYPOINT", "https://idp.example.org/sso"),
            ("KOMBIT_CERTIFICATEPUBLICKEY", &identity.certificate_pem()),
            ("KOMBIT_CERTIFICATEPRIVATEKEY", &service.key_pem()),
            ("SLUSE__OIDC__ISSUER", &openid.issuer),
            ("SLUSE__OIDC__CLIENT_ID", CLIENT_ID),
            ("SLUSE__OIDC__CLIENT_SECRET", CLIENT_SECRET),
        ],
    );
    let base = format!("https://localhost:{}/api/v1", running.tls.port());
    let old = browser(dir.path(), &first, running.tls);

    // Headers, on an answer, an error and what is nowhere.
    for path in ["/api/v1/auth/me", "/api/v1/healthcheck", "/api/v1/nothing", "/nothing"] {
        let answer = old.get(format!("https://localhost:{}{path}", running.tls.port())).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"), "{path}");
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer-when-downgrade"), "{path}");
        let transport = header("strict-transport-security");
        assert_eq!(transport.as_deref(), Some("max-age=63072000; includeSubDomains; preload"), "{path}");
        assert!(header("content-security-policy").unwrap().contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(header("x-powered-by").or(header("server")), None, "{path}");
        assert_eq!(header("access-control-allow-origin"), None, "{path}");
    }

    // What a browser asks before the web client's request, and a stranger's.
    let preflight = |origin: &'static str| {
        old.request(reqwest::Method::OPTIONS, format!("{base}/organization/1"))
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "authorization,content-type")
            .send()
    };
    let answer = preflight(FRONTEND).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], FRONTEND);
    let stranger = preflight("https://evil.example").await.unwrap();
    assert!(!stranger.headers().contains_key("access-control-allow-origin"));

    // Too much is refused by what it says of itself: the body is never sent.
    let refused = {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(running.plain).await.unwrap();
        let head = "POST /api/v1/organization HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                    Content-Length: 2097153\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0_u8; 12];
        stream.read_exact(&mut start).await.unwrap();
        String::from_utf8_lossy(&start).into_owned()
    };
    assert_eq!(refused, "HTTP/1.1 413");

    // KOMBIT.
    let cookie_of = |answer: &reqwest::Response| {
        let set = answer.headers()["set-cookie"].to_str().unwrap();
        assert!(set.contains("Secure"), "{set}");
        set.split(';').next().unwrap().to_owned()
    };
    let left = old.get(format!("{base}/auth/kombit/login?redirect={FRONTEND}/applications")).send().await.unwrap();
    let request = read_request(left.headers()["location"].to_str().unwrap(), &service.certificate);
    let mut say = Say::good(&request.id, "https://localhost:8443");
    say.privileges = vec![format!("{ROLE}1")];
    let xml = response(&say, &sign(&assertion(&say, "_a"), &identity.key), None);
    let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("SAMLResponse", &posted(&xml)).finish();
    let back = old
        .post(format!("{base}/auth/kombit/login/callback"))
        .header("cookie", cookie_of(&left))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    let token = query(back.headers()["location"].to_str().unwrap())["jwt"].clone();
    assert_eq!(old.get(format!("{base}/auth/me")).bearer_auth(token).send().await.unwrap().status().as_u16(), 200);

    // OpenID Connect.
    let left = old.get(format!("{base}/auth/oidc/login?redirect={FRONTEND}/applications")).send().await.unwrap();
    let (code, state) = openid.log_in(left.headers()["location"].to_str().unwrap(), |_| ());
    let back = old
        .get(format!("{base}/auth/oidc/callback?code={code}&state={state}"))
        .header("cookie", cookie_of(&left))
        .send()
        .await
        .unwrap();
    assert!(query(back.headers()["location"].to_str().unwrap()).contains_key("jwt"));

    // Files that do not fit together change nothing; a new pair is shown to new connections.
    let key = std::fs::read(path("key.pem")).unwrap();
    let second = write_certificate(dir.path());
    let new_key = std::fs::read(path("key.pem")).unwrap();
    let hang_up = || {
        let pid = running.program.0.id().to_string();
        assert!(Command::new("kill").arg("-HUP").arg(pid).status().unwrap().success());
    };
    std::fs::write(path("key.pem"), key).unwrap();
    hang_up();
    let again = browser(dir.path(), &first, running.tls);
    assert!(again.get(format!("{base}/healthcheck")).send().await.is_ok());
    std::fs::write(path("key.pem"), new_key).unwrap();
    hang_up();
    let new = browser(dir.path(), &second, running.tls);
    let mut is_shown = false;
    for _ in 0..100 {
        is_shown = new.get(format!("{base}/healthcheck")).send().await.is_ok();
        if is_shown {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(is_shown, "the new certificate");
    let late = browser(dir.path(), &first, running.tls);
    assert!(late.get(format!("{base}/healthcheck")).send().await.is_err(), "the old one is gone");
}
