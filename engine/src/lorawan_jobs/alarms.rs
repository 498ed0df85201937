//! Alarms about gateways, by mail: one that is offline, one that is back, one that heard unusually much or little yesterday. Subjects and
//! texts are the reference's.
//!
//! A mail is sent before it is noted as sent: a node that dies in between sends it twice rather than never.

use chrono::{DateTime, Days, Duration, Timelike, Utc};
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

/// What became of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Sent,
    /// There is nobody to be told, or the mail server does not take it.
    Never,
    /// The mail server is away.
    Later,
}

impl LorawanJobs {
    /// A mail in the reference's words: what happened, and where to look.
    fn alarm(&self, row: &GatewayRow, subject: &str, texts: &[String]) -> Mail {
        let url = format!("{}/gateways/gateway-detail/{}", self.frontend_base_url.trim_end_matches('/'), row.gateway);
        let body = MailBody::new().paragraph("OS2iot alarm");
        let body = texts.iter().fold(body, MailBody::paragraph).link("Link", url);
        let to = row.fields.alarm_mail.iter().filter(|address| !address.trim().is_empty()).cloned().collect();
        Mail::new(to, format!("OS2iot alarm: {} {subject}", row.fields.name), body)
    }

    async fn tell(&self, row: &GatewayRow, mail: &Mail) -> Told {
        if mail.to.is_empty() {
            return Told::Never;
        }
        match self.mailer.send(mail).await {
            Ok(()) => Told::Sent,
            Err(MailError::NotConfigured) => Told::Never,
            Err(error) => {
                tracing::warn!(%error, gateway = %row.gateway, "an alarm about a gateway was not sent");
                if matches!(error, MailError::Unavailable(_)) { Told::Later } else { Told::Never }
            }
        }
    }

    /// Tells of gateways that are offline or back. What does not leave is tried again by the next run; a mail server that is away is
    /// asked once per run, since it may take long to say so.
    pub(super) async fn offline_alarms(&self, now: DateTime<Utc>) -> Result<(), String> {
        let rows = self.admin.gateways_with_alarms(NUM_GATEWAYS_MAX).await.map_err(text)?;
        for row in rows {
            let Some(alarm) = connection_alarm(&row, now) else { continue };
            let name = &row.fields.name;
            let mail = match alarm {
                ConnectionAlarm::Offline => self.alarm(
                    &row,
                    "er offline",
                    &[
                        format!("Gateway’en {name} er offline."),
                        "Der udsendes først besked igen, når gateway’en kommer online.".to_owned(),
                    ],
                ),
                ConnectionAlarm::Back => {
                    let seen_at = self.admin.danish_time(row.last_seen_at.unwrap_or(now)).await.map_err(text)?;
                    self.alarm(
                        &row,
                        "er online igen",
                        &[
                            format!("Gateway’en {name} er kommet online igen {seen_at}."),
                            "Der udsendes besked igen, hvis gateway’en går offline i det angivne tidsrum.".to_owned(),
                        ],
                    )
                }
            };
            match self.tell(&row, &mail).await {
                Told::Sent => {
                    let is_offline = alarm == ConnectionAlarm::Offline;
                    self.admin.mark_offline_notified(row.gateway, is_offline).await.map_err(text)?;
                }
                Told::Never => {}
                Told::Later => break,
            }
        }
        Ok(())
    }

    /// Looks at yesterday's packets of every gateway, once a day after four o'clock.
    ///
    /// # Errors
    /// ChirpStack, the database or the mail server is away; those that are left are tried again.
    pub async fn unusual_packets(&self, now: DateTime<Utc>) -> Result<(), String> {
        let today = now.date_naive();
        if now.hour() < PACKETS_AFTER_HOUR || self.admin.job_day(PACKETS_DAY).await.map_err(text)? >= Some(today) {
            return Ok(());
        }
        let yesterday = today - Days::new(1);
        for row in self.admin.gateways_to_judge(today, NUM_GATEWAYS_MAX).await.map_err(text)? {
            let num_received = match self.network.gateway_days(row.gateway, yesterday).await {
                Ok(days) => {
                    let of_day = days.iter().find(|day| day.at.date_naive() == yesterday);
                    Some(of_day.map_or(0, |day| day.num_received as i64))
                }
                Err(error) if error.is_temporary() => return Err(error.to_string()),
                // Deleted in ChirpStack by hand.
                Err(_) => None,
            };
            if let Some(num_received) = num_received.filter(|num| is_unusual(&row, *num)) {
                let texts = [
                    format!("Gateway’en {} har et uregelmæssigt pakkemønster.", row.fields.name),
                    format!("Antal modtagne pakker det seneste døgn: {num_received}"),
                    "Der udsendes besked hvert døgn indtil pakkemønsteret igen er regelmæssigt.".to_owned(),
                ];
                let mail = self.alarm(&row, "har et uregelmæssigt pakkemønster", &texts);
                if self.tell(&row, &mail).await == Told::Later {
                    return Err("the mail server is away".to_owned());
                }
            }
            self.admin.mark_packets_judged(row.gateway, today).await.map_err(text)?;
        }
        self.admin.set_job_day(PACKETS_DAY, today).await.map_err(text)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
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
