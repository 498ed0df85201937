//! Mail: what Sluse writes to people, and the port through which it leaves.
//!
//! A [`MailBody`] is built from texts, never from HTML, so that nothing a user typed can become markup: both forms, HTML and plain
//! text, come out of the same parts, and the HTML one escapes all of them. Headers lose their control characters.

use std::fmt::{Debug, Write as _};

use async_trait::async_trait;

/// One part of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Paragraph(String),
    /// A label and a value.
    Row(String, String),
    /// A label and an address.
    Link(String, String),
}

/// The text of a mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailBody(Vec<Part>);

impl MailBody {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a paragraph; line breaks in it stay.
    #[must_use]
    pub fn paragraph(mut self, text: impl Into<String>) -> Self {
        self.0.push(Part::Paragraph(text.into()));
        self
    }

    /// Adds a line of a label and a value, as in `E-mail: rita@example.org`.
    #[must_use]
    pub fn row(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push(Part::Row(label.into(), value.into()));
        self
    }

    /// Adds a link. Only `http` and `https` become one, every other address stays text.
    #[must_use]
    pub fn link(mut self, label: impl Into<String>, url: impl Into<String>) -> Self {
        self.0.push(Part::Link(label.into(), url.into()));
        self
    }

    /// As plain text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for part in &self.0 {
            // Writing to a String does not fail.
            let _ = match part {
                Part::Paragraph(text) => write!(out, "{text}\n\n"),
                Part::Row(label, value) => writeln!(out, "{label}: {value}"),
                Part::Link(label, url) => write!(out, "{label}: {url}\n\n"),
            };
        }
        out
    }

    /// As HTML, everything escaped.
    pub fn to_html(&self) -> String {
        let mut out = String::from("<!DOCTYPE html>\n<html><body>\n");
        for part in &self.0 {
            let _ = match part {
                Part::Paragraph(text) => writeln!(out, "<p>{}</p>", escape(text).replace('\n', "<br>\n")),
                Part::Row(label, value) => writeln!(out, "<p><b>{}:</b> {}</p>", escape(label), escape(value)),
                Part::Link(label, url) if is_web(url) => {
                    writeln!(out, "<p><a href=\"{}\">{}</a></p>", escape(url), escape(label))
                }
                Part::Link(label, url) => writeln!(out, "<p>{}: {}</p>", escape(label), escape(url)),
            };
        }
        out.push_str("</body></html>\n");
        out
    }
}

fn is_web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A mail, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Addresses, all of them visible to each other.
    pub to: Vec<String>,
    pub subject: String,
    pub body: MailBody,
}

impl Mail {
    /// A mail to these addresses.
    pub fn new(to: Vec<String>, subject: impl AsRef<str>, body: MailBody) -> Self {
        let subject = subject.as_ref().chars().filter(|c| !c.is_control()).collect();
        Self { to, subject, body }
    }
}

/// Why a mail did not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Nobody said where the mail server is.
    #[error("no mail server is configured: set EMAIL_HOST and EMAIL_FROM")]
    NotConfigured,
    /// An address is none.
    #[error("not an e-mail address: {0}")]
    Address(String),
    /// The server refused it for good, or does not let us in.
    #[error("the mail server refused the mail: {0}; check EMAIL_USER, EMAIL_PASS and EMAIL_FROM")]
    Refused(String),
    /// The server cannot be reached, or was too slow: later it may go.
    #[error("the mail server cannot be used now: {0}; check EMAIL_HOST and EMAIL_PORT")]
    Unavailable(String),
}

/// Sends mail. An answer comes within seconds, whatever the server does.
#[async_trait]
pub trait Mailer: Debug + Send + Sync + 'static {
    /// Hands a mail to the server; afterwards it is the server's.
    ///
    /// # Errors
    /// A [`MailError`]; then the mail was not accepted, or nobody knows.
    async fn send(&self, mail: &Mail) -> Result<(), MailError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_typed_stays_text() {
        let evil = "<img src=x onerror=\"alert('x')\"> & co";
        let body = MailBody::new().paragraph(evil).row("Navn", evil).link(evil, "javascript:alert(1)");
        let html = body.to_html();
        assert!(!html.contains("<img") && !html.contains("href"), "{html}");
        assert!(html.contains("&lt;img src=x onerror=&quot;alert(&#39;x&#39;)&quot;&gt; &amp; co"), "{html}");
        assert!(body.to_text().contains(evil), "the plain text is what was typed");
    }

    #[test]
    fn a_web_address_becomes_a_link_and_lines_stay_lines() {
        let html = MailBody::new().paragraph("a\nb").link("Åbn", "https://x.dk/?a=1&b=\"2\"").to_html();
        assert!(html.contains("<p>a<br>\nb</p>"), "{html}");
        assert!(html.contains("<a href=\"https://x.dk/?a=1&amp;b=&quot;2&quot;\">Åbn</a>"), "{html}");
    }

    #[test]
    fn a_subject_is_one_line() {
        let mail = Mail::new(Vec::new(), "Hej\r\nBcc: all@example.org", MailBody::new());
        assert_eq!(mail.subject, "HejBcc: all@example.org");
    }
}
