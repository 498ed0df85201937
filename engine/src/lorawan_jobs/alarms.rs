//! Alarms about gateways, by mail: one that is offline, one that is back, one that heard unusually much or little yesterday.
//!
//! A mail is sent before it is noted as sent: a node that dies in between sends it twice rather than never.

use chrono::{DateTime, Days, Duration, NaiveDate, Timelike, Utc};
use sluse_schema::port::admin::gateway::{GatewayAdminStore, GatewayRow};
use sluse_schema::port::{Mail, MailBody, MailError};

use super::LorawanJobs;

/// Gateways with alarms that are looked at.
const NUM_GATEWAYS_MAX: i64 = 10_000;
/// A gateway heard this recently is back.
const BACK_WITHIN: Duration = Duration::minutes(3);
/// Yesterday's packets are looked at after this hour, UTC.
const PACKETS_AFTER_HOUR: u32 = 4;
/// The setting that says of which day packets were looked at.
const PACKETS_DAY: &str = "unusual packets";

/// What is to be said of a gateway's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAlarm {
    Offline,
    Back,
}

/// Whether somebody is to be told. A gateway that was never heard is not offline yet.
pub fn connection_alarm(row: &GatewayRow, now: DateTime<Utc>) -> Option<ConnectionAlarm> {
    if row.fields.notify_offline != Some(true) {
        return None;
    }
    let silent_for = now - row.last_seen_at?;
    let threshold = Duration::minutes(row.fields.offline_alarm_threshold_minutes?.clamp(1, 525_600));
    match row.has_sent_offline_notification == Some(true) {
        false if silent_for >= threshold => Some(ConnectionAlarm::Offline),
        true if silent_for <= BACK_WITHIN => Some(ConnectionAlarm::Back),
        _ => None,
    }
}

/// Whether a number of packets is outside what is usual.
pub fn is_unusual(row: &GatewayRow, num_received: i64) -> bool {
    let fields = &row.fields;
    fields.notify_unusual_packages == Some(true)
        && (fields.minimum_packages.is_some_and(|min| num_received < min)
            || fields.maximum_packages.is_some_and(|max| num_received > max))
}

fn about(row: &GatewayRow) -> MailBody {
    let organization = row.organization.as_ref().map_or("", |organization| organization.name.as_str());
    MailBody::new()
        .row("Gateway", row.fields.name.clone())
        .row("Gateway-id", row.gateway.to_string())
        .row("Organisation", organization)
        .row("Sidst set", row.last_seen_at.map_or_else(|| "aldrig".to_owned(), |at| at.to_rfc3339()))
}

impl LorawanJobs {
    /// The gateways that have somebody to be told.
    async fn with_alarms(&self) -> Result<Vec<GatewayRow>, String> {
        self.admin.gateways_with_alarms(NUM_GATEWAYS_MAX).await.map_err(|error| error.to_string())
    }

    /// Sends a mail about a gateway; whether it left. Without a mail server nothing is sent and nothing is noted.
    async fn tell(&self, row: &GatewayRow, subject: String, body: MailBody) -> bool {
        let Some(address) = row.fields.alarm_mail.clone().filter(|address| !address.trim().is_empty()) else {
            return false;
        };
        match self.mailer.send(&Mail::new(vec![address], subject, body)).await {
            Ok(()) => true,
            Err(MailError::NotConfigured) => false,
            Err(error) => {
                tracing::warn!(%error, gateway = %row.gateway, "an alarm about a gateway was not sent");
                false
            }
        }
    }

    pub(super) async fn offline_alarms(&self, now: DateTime<Utc>) -> Result<(), String> {
        for row in self.with_alarms().await? {
            let Some(alarm) = connection_alarm(&row, now) else { continue };
            let name = &row.fields.name;
            let (subject, text) = match alarm {
                ConnectionAlarm::Offline => {
                    (format!("Gateway offline: {name}"), "Gatewayen har ikke været i kontakt inden for den valgte tid.")
                }
                ConnectionAlarm::Back => (format!("Gateway online igen: {name}"), "Gatewayen er i kontakt igen."),
            };
            if self.tell(&row, subject, about(&row).paragraph(text)).await {
                let is_offline = alarm == ConnectionAlarm::Offline;
                self.admin.mark_offline_notified(row.gateway, is_offline).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Looks at yesterday's packets, once a day after four o'clock.
    ///
    /// # Errors
    /// ChirpStack or the database could not be asked; it is tried again.
    pub async fn unusual_packets(&self, now: DateTime<Utc>) -> Result<(), String> {
        let today = now.date_naive();
        if now.hour() < PACKETS_AFTER_HOUR || self.looked_at().await? >= Some(today) {
            return Ok(());
        }
        let yesterday = today - Days::new(1);
        for row in self.with_alarms().await?.iter().filter(|row| row.fields.notify_unusual_packages == Some(true)) {
            let days = match self.network.gateway_days(row.gateway, yesterday).await {
                Ok(days) => days,
                Err(error) if error.is_temporary() => return Err(error.to_string()),
                // Deleted in ChirpStack by hand.
                Err(_) => continue,
            };
            let of_day = days.iter().find(|day| day.at.date_naive() == yesterday);
            let num_received = of_day.map_or(0, |day| day.num_received as i64);
            if is_unusual(row, num_received) {
                let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
                let body = about(row)
                    .row("Dato", yesterday.to_string())
                    .row("Modtagne pakker", num_received.to_string())
                    .row("Minimum", number(row.fields.minimum_packages))
                    .row("Maksimum", number(row.fields.maximum_packages));
                self.tell(row, format!("Usædvanligt antal pakker: {}", row.fields.name), body).await;
            }
        }
        self.admin.set_job_day(PACKETS_DAY, today).await.map_err(|error| error.to_string())
    }

    async fn looked_at(&self) -> Result<Option<NaiveDate>, String> {
        self.admin.job_day(PACKETS_DAY).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use sluse_schema::id::GatewayId;
    use sluse_schema::port::admin::Stamps;
    use sluse_schema::port::admin::gateway::GatewayFields;

    use super::*;

    fn row(seen_min_ago: Option<i64>, has_sent: bool) -> GatewayRow {
        let now = DateTime::from_timestamp_millis(1_780_000_000_000).unwrap();
        GatewayRow {
            id: 1,
            gateway: GatewayId(1),
            organization: None,
            fields: GatewayFields {
                notify_offline: Some(true),
                offline_alarm_threshold_minutes: Some(10),
                notify_unusual_packages: Some(true),
                minimum_packages: Some(5),
                maximum_packages: Some(10),
                ..GatewayFields::default()
            },
            num_received: 0,
            num_sent: 0,
            last_seen_at: seen_min_ago.map(|minutes| now - Duration::minutes(minutes)),
            has_sent_offline_notification: Some(has_sent),
            stamps: Stamps { created_at: now, updated_at: now, created_by: None, updated_by: None },
        }
    }

    #[test]
    fn an_alarm_is_raised_once_and_taken_back_once() {
        let now = DateTime::from_timestamp_millis(1_780_000_000_000).unwrap();
        let of = |seen, has_sent| connection_alarm(&row(seen, has_sent), now);
        assert_eq!(of(Some(9), false), None);
        assert_eq!(of(Some(10), false), Some(ConnectionAlarm::Offline));
        assert_eq!(of(Some(10), true), None, "it was told already");
        assert_eq!(of(Some(4), true), None, "not surely back");
        assert_eq!(of(Some(3), true), Some(ConnectionAlarm::Back));
        assert_eq!(of(None, false), None, "it was never there");
        let mut unwanted = row(Some(60), false);
        unwanted.fields.notify_offline = None;
        assert_eq!(connection_alarm(&unwanted, now), None);
    }

    #[test]
    fn a_number_of_packets_is_unusual_outside_its_limits() {
        let unusual: Vec<i64> = (0..15).filter(|n| is_unusual(&row(None, false), *n)).collect();
        assert_eq!(unusual, [0, 1, 2, 3, 4, 11, 12, 13, 14]);
    }
}
