//! What librdkafka says by itself: its log lines go to ours, its errors to the condition of the log.
//!
//! Its texts name brokers and properties, never the values of passwords.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// How Kafka is reached, as the clients of one log saw it last.
#[derive(Debug, Default)]
pub struct Condition {
    trouble: Mutex<Option<String>>,
    /// Set once and for good: another process has taken this node's place.
    replaced: Mutex<Option<String>>,
}

impl Condition {
    /// Why nothing goes through at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something went through, or did not.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Another process runs under this node's name: this one may write nothing any more.
    pub fn replaced(&self) -> Option<String> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another process has taken this node's name: this one writes nothing any more. `seen_by` says what it was shut out with.
    pub fn replaced_by_another(&self, seen_by: &str) {
        let text = format!(
            "another process was started with this node's SLUSE_NODE_ID ({seen_by}): this one writes nothing until it is started again; \
             give each node a name of its own"
        );
        let before = self.replaced.lock().unwrap_or_else(PoisonError::into_inner).replace(text);
        if before.is_none() {
            tracing::error!(
                seen_by,
                "another process was started with this node's SLUSE_NODE_ID: this one writes nothing any more"
            );
        }
    }
}

/// One client's way to say things.
#[derive(Clone, Debug)]
pub struct Link {
    client: &'static str,
    condition: Arc<Condition>,
}

impl Link {
    /// For the client of this name.
    pub fn new(client: &'static str, condition: &Arc<Condition>) -> Self {
        Self { client, condition: Arc::clone(condition) }
    }

    /// The condition that it reports to.
    pub fn condition(&self) -> &Arc<Condition> {
        &self.condition
    }

    /// Passes a log line of librdkafka on.
    pub fn say(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.client;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(client, facility, message, "kafka client");
            }
            RDKafkaLogLevel::Warning => tracing::info!(client, facility, message, "kafka client"),
            _ => tracing::debug!(client, facility, message, "kafka client"),
        }
    }

    /// Takes note of an error that librdkafka reports outside any call.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        let client = self.client;
        match error.rdkafka_error_code() {
            // Its reader is told; it is no error.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                // librdkafka says it again with every attempt.
                if self.condition.trouble().is_none() {
                    tracing::warn!(client, reason, "no Kafka broker can be reached");
                }
                self.condition.set_trouble(Some(format!("no Kafka broker can be reached: {reason}")));
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                tracing::warn!(client, reason, "Kafka refuses our credentials");
                self.condition.set_trouble(Some("Kafka refuses our credentials (kafka.properties)".to_owned()));
            }
            _ => tracing::info!(client, %error, reason, "kafka client"),
        }
    }
}

impl ClientContext for Link {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.say(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for Link {}
