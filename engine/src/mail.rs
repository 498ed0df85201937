//! Mail over SMTP (lettre). One mail is one connection, and every call ends within [`SEND_WITHIN`], so that a mail server that
//! hangs costs a request some seconds and nothing else.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use metrics::counter;
use sluse_schema::port::{Mail, MailError, Mailer};

use crate::config::{MailConfig, MailTls};

/// Mails handed to the server, by result.
pub const MAILS_TOTAL: &str = "sluse_mails_total";
/// One mail, connection included.
const SEND_WITHIN: Duration = Duration::from_secs(15);
/// One step of the dialogue.
const STEP_WITHIN: Duration = Duration::from_secs(8);

/// Why the mail server cannot be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MailSetupError {
    #[error("mail.from (EMAIL_FROM) must be an address like sluse@example.org, or Sluse <sluse@example.org>")]
    From,
    #[error("mail.ca_certificates cannot be read from {path}: {source}")]
    CaFile { path: String, source: std::io::Error },
    #[error("mail.host (EMAIL_HOST) or mail.ca_certificates cannot be used for TLS: {0}")]
    Tls(String),
}

/// Sends through the configured server.
#[derive(Debug)]
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// Stands where no server is configured: every mail is refused at once.
#[derive(Debug)]
pub struct NoMailer;

#[async_trait]
impl Mailer for NoMailer {
    async fn send(&self, _mail: &Mail) -> Result<(), MailError> {
        Err(MailError::NotConfigured)
    }
}

/// Registers help texts and units.
pub fn describe() {
    metrics::describe_counter!(MAILS_TOTAL, metrics::Unit::Count, "Mails handed to the mail server, by result");
}

impl SmtpMailer {
    /// Sets the server up; nothing is connected yet.
    ///
    /// # Errors
    /// A [`MailSetupError`].
    pub fn new(config: &MailConfig) -> Result<Self, MailSetupError> {
        let from = config.from.parse().map_err(|_| MailSetupError::From)?;
        let tls = match config.tls {
            MailTls::None => Tls::None,
            MailTls::Opportunistic => Tls::Opportunistic(tls_parameters(config)?),
            MailTls::StartTls => Tls::Required(tls_parameters(config)?),
            MailTls::Implicit => Tls::Wrapper(tls_parameters(config)?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .tls(tls)
            .timeout(Some(STEP_WITHIN));
        if let Some((user, password)) = &config.credentials {
            builder = builder.credentials(Credentials::new(user.clone(), password.reveal().to_owned()));
        }
        Ok(Self { transport: builder.build(), from })
    }

    fn message(&self, mail: &Mail) -> Result<Message, MailError> {
        let mut builder = Message::builder().from(self.from.clone()).subject(&mail.subject);
        for address in &mail.to {
            let mailbox = address.parse().map_err(|_| MailError::Address(address.clone()))?;
            builder = builder.to(mailbox);
        }
        let body = MultiPart::alternative_plain_html(mail.body.to_text(), mail.body.to_html());
        builder.multipart(body).map_err(|error| MailError::Address(error.to_string()))
    }
}

fn tls_parameters(config: &MailConfig) -> Result<TlsParameters, MailSetupError> {
    let failed = |error: lettre::transport::smtp::Error| MailSetupError::Tls(error.to_string());
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca_certificates {
        let pem = std::fs::read(path)
            .map_err(|source| MailSetupError::CaFile { path: path.display().to_string(), source })?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(failed)?);
    }
    builder.build().map_err(failed)
}

fn meaning(error: &lettre::transport::smtp::Error) -> MailError {
    let text = error.to_string();
    if error.is_permanent() { MailError::Refused(text) } else { MailError::Unavailable(text) }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let message = self.message(mail)?;
        let sent = match tokio::time::timeout(SEND_WITHIN, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(MailError::Unavailable(format!("no answer within {} s", SEND_WITHIN.as_secs()))),
        };
        counter!(MAILS_TOTAL, "result" => if sent.is_ok() { "sent" } else { "failed" }).increment(1);
        if let Err(error) = &sent {
            tracing::warn!(%error, subject = mail.subject, "a mail was not sent");
        }
        sent
    }
}
