//! What belongs to Sigfox devices alone: the one downlink that waits until a device asks for it, and signal figures by day.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use sluse_schema::device::Transmission;
use sluse_schema::port::admin::device::{DeviceFields, DeviceRow};

use super::access::InApplication;
use super::devices::of_store;
use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};

/// How far back figures go.
const NUM_DAYS: i64 = 30;
/// Under this name among the device's settings.
const DOWNLINK: &str = "downlinkPayload";

/// What waits for the device.
pub fn queue(row: &DeviceRow) -> Value {
    let items: Vec<Value> = row
        .fields
        .settings
        .get(DOWNLINK)
        .filter(|data| data.is_string())
        .map(|data| json!({"data": data}))
        .into_iter()
        .collect();
    json!({"totalCount": items.len(), "deviceQueueItems": items})
}

/// Puts a downlink in the place of whatever waits.
pub async fn set(caller: &Caller<Reader>, state: &AppState, row: DeviceRow, body: &Value) -> ApiResult {
    let permit = caller.write(row.resource())?;
    let data = payload(&body["data"])?;
    let mut fields: DeviceFields = row.fields;
    fields.settings.insert(DOWNLINK.to_owned(), data.into());
    state.admin().update_device(&permit, None, &caller.changed_by, row.id, &fields).await.map_err(of_store)?;
    Ok(HttpResponse::Created().finish())
}

/// Exactly 8 bytes in hex.
fn payload(data: &Value) -> ApiResult<String> {
    let data = data.as_str().unwrap_or_default();
    if data.len() != 16 || !data.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ApiError::bad_request(code::DOWNLINK_LENGTH_WRONG_FOR_SIGFOX));
    }
    Ok(data.to_ascii_lowercase())
}

/// Averages per day over the transmissions that are remembered, for the last 30 days.
pub fn daily_signal(window: &[Transmission]) -> Value {
    daily_signal_at(window, Utc::now())
}

fn daily_signal_at(window: &[Transmission], now: DateTime<Utc>) -> Value {
    let since = now - TimeDelta::days(NUM_DAYS);
    let mut days: BTreeMap<NaiveDate, Vec<&Transmission>> = BTreeMap::new();
    for transmission in window.iter().filter(|t| t.rssi_dbm.is_some()) {
        let at = DateTime::from_timestamp_millis(transmission.event_at_ms).unwrap_or_default();
        if at >= since {
            days.entry(at.date_naive()).or_default().push(transmission);
        }
    }
    days.into_iter()
        .map(|(day, of_day)| {
            let average =
                |figures: Vec<f64>| (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64);
            let midnight = day.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc();
            json!({
                "timestamp": view::instant(midnight),
                "rssi": average(of_day.iter().filter_map(|t| t.rssi_dbm).map(f64::from).collect()),
                "snr": average(of_day.iter().filter_map(|t| t.snr_db).map(f64::from).collect()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downlink_is_eight_bytes() {
        assert_eq!(payload(&json!("00112233445566AA")).unwrap(), "00112233445566aa");
        for wrong in [json!("00"), json!("0011223344556677 "), json!("00112233445566zz"), json!(null), json!(7)] {
            let error = payload(&wrong).unwrap_err();
            assert_eq!(error.body()["message"], code::DOWNLINK_LENGTH_WRONG_FOR_SIGFOX, "{wrong}");
        }
    }

    #[test]
    fn signal_figures_are_averaged_by_day_and_old_or_silent_transmissions_left_out() {
        let now: DateTime<Utc> = "2026-11-25T12:00:00Z".parse().unwrap();
        let at = |text: &str, rssi_dbm| Transmission {
            event_at_ms: text.parse::<DateTime<Utc>>().unwrap().timestamp_millis(),
            offset: 1,
            rssi_dbm,
            snr_db: Some(8.0),
            num_gateways: 1,
            dr: None,
            f_cnt: None,
            f_cnt_gap: 0,
        };
        let window = [
            at("2026-09-01T01:00:00Z", Some(-50)),
            at("2026-11-24T01:00:00Z", Some(-90)),
            at("2026-11-24T23:59:59Z", Some(-100)),
            at("2026-11-25T03:00:00Z", None),
        ];
        assert_eq!(
            daily_signal_at(&window, now),
            json!([{"timestamp": "2026-11-24T00:00:00.000Z", "rssi": -95.0, "snr": 8.0}])
        );
    }
}
