//! A real mail server (aiosmtpd, in a process of its own), and mailers that use it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use sluse_engine::config::{MailConfig, MailTls};
use sluse_engine::mail::SmtpMailer;

/// A running server; it ends with this value.
pub struct SmtpServer {
    pub port: u16,
    child: Child,
    mails: Mutex<mpsc::Receiver<Value>>,
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SmtpServer {
    /// Takes mail from everybody.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With the arguments of the script.
    pub fn start_with(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admin_api/smtp_server.py");
        let mut child = Command::new(python()).arg(script).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let (tell, mails) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { port, child, mails: Mutex::new(mails) }
    }

    /// The mail that comes next.
    pub fn next(&self) -> Mail {
        let received = self.mails.lock().unwrap().recv_timeout(Duration::from_secs(20));
        Mail(received.expect("a mail"))
    }

    /// Whether no mail has come.
    pub fn is_empty(&self) -> bool {
        self.mails.lock().unwrap().try_recv().is_err()
    }

    pub fn config(&self) -> MailConfig {
        MailConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            credentials: None,
            from: "Sluse <sluse@example.org>".into(),
            tls: MailTls::None,
            ca_certificates: None,
        }
    }

    pub fn mailer(&self) -> Arc<SmtpMailer> {
        Arc::new(SmtpMailer::new(&self.config()).unwrap())
    }
}

/// The first Python here that has the package: Debian's own, when another stands before it.
fn python() -> &'static str {
    let has_package = |python: &&str| {
        let found = Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_package).expect("aiosmtpd (Debian: python3-aiosmtpd)")
}

/// A mail as the server took it.
pub struct Mail(pub Value);

impl Mail {
    pub fn to(&self) -> Vec<&str> {
        self.0["to"].as_array().unwrap().iter().map(|to| to.as_str().unwrap()).collect()
    }

    /// Headers and all parts, unpacked: base64 and quoted-printable are read.
    pub fn text(&self) -> String {
        let raw = self.0["data"].as_str().unwrap().replace("\r\n", "\n");
        let mut text = String::new();
        for part in raw.split("\n\n") {
            let packed: String = part.lines().collect();
            match base64::engine::general_purpose::STANDARD.decode(&packed) {
                Ok(bytes) if packed.len() > 20 => text.push_str(&String::from_utf8_lossy(&bytes)),
                _ => text.push_str(&unquoted(part)),
            }
            text.push_str("\n\n");
        }
        text
    }
}

fn unquoted(part: &str) -> String {
    let joined = part.replace("=\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'=').then(|| tail.get(..2)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
