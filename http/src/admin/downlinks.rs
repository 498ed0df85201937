//! Downlinks to radio devices: queued in ChirpStack, remembered here; what becomes of one is written by the device stage from
//! ChirpStack's `txack` and `ack`.
//!
//! Limits: a payload of at most 242 bytes (EU868, data rates 4 to 7); whether the device's data rate takes it, ChirpStack knows.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::{Value, json};
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::ChangedBy;
use sluse_schema::port::admin::device::DeviceRow;
use sluse_schema::port::admin::lorawan::{DownlinkRow, NewDownlink};

use super::view;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::ok;
use crate::network::error::refusal;
use crate::validate::{Form, Rule, as_javascript_text};

/// Downlinks that a list shows.
const NUM_SHOWN_MAX: i64 = 25;
const PAYLOAD_BYTES_MAX: usize = 242;
/// Higher ports belong to the network.
pub const PORT_MAX: i64 = 223;

fn downlink(row: &DownlinkRow) -> Value {
    json!({
        "fCntDown": row.f_cnt_down,
        "payload": hex::encode(&row.payload),
        "port": row.port,
        "sendAt": view::instant_opt(row.sent_at),
        "acknowledgedAt": view::instant_opt(row.acknowledged_at),
        "acknowledged": row.is_acknowledged,
        "createdAt": view::instant(row.created_at),
    })
}

/// Hex digits, however many: what the reference asks for whatever the device is.
pub fn check_data(form: &mut Form<'_>) {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    form.checked_text("data", &[Rule::Custom("matches", "Must be hexadecimal", is_hex)]);
}

/// The `data` of a downlink; what is wrong is noted in `form`.
pub fn read_data(form: &mut Form<'_>) -> Vec<u8> {
    let text = form.get("data").map(as_javascript_text).unwrap_or_default();
    match hex::decode(&text).ok().filter(|bytes| !bytes.is_empty()) {
        Some(bytes) if bytes.len() <= PAYLOAD_BYTES_MAX => bytes,
        Some(_) => {
            let text = format!("data must be shorter than or equal to {} characters", 2 * PAYLOAD_BYTES_MAX);
            form.fail("data", "maxLength", text);
            Vec::new()
        }
        None => {
            form.fail("data", "matches", "Must be hexadecimal");
            Vec::new()
        }
    }
}

/// What waits to be sent.
pub async fn waiting(state: &AppState, row: &DeviceRow) -> ApiResult {
    let found = state.admin().waiting_downlinks(row.id, NUM_SHOWN_MAX).await?;
    Ok(ok(found.iter().map(downlink).collect()))
}

/// What was sent, newest first.
pub async fn sent(state: &AppState, row: &DeviceRow) -> ApiResult {
    let found = state.admin().sent_downlinks(row.id, NUM_SHOWN_MAX).await?;
    Ok(ok(found.iter().map(downlink).collect()))
}

/// Queues a downlink.
pub async fn send(state: &AppState, permit: &Permit, by: &ChangedBy, row: &DeviceRow, body: &Value) -> ApiResult {
    let mut form = Form::of(body);
    let payload = read_data(&mut form);
    let port = form.int("port", Some(1), Some(PORT_MAX));
    let is_confirmed = form.boolean_opt("confirmedDownlink").unwrap_or(false);
    form.finish()?;
    let server = state.network_needed()?;
    let dev_eui = row.fields.dev_eui.ok_or_else(|| ApiError::bad_request(code::ID_DOES_NOT_EXIST))?;
    let f_port = u32::try_from(port).unwrap_or(1);
    let queue_item_id = server.enqueue(dev_eui, f_port, is_confirmed, &payload).await.map_err(refusal)?;
    let port = i32::try_from(port).unwrap_or(1);
    let new = NewDownlink { device: row.id, queue_item_id, payload, port, is_confirmed };
    state.admin().create_downlink(permit, by, &new).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).finish())
}

/// Empties the queue: ChirpStack's first, so that nothing is shown as flushed that is still sent.
pub async fn flush(state: &AppState, permit: &Permit, by: &ChangedBy, row: &DeviceRow) -> ApiResult {
    let server = state.network_needed()?;
    let dev_eui = row.fields.dev_eui.ok_or_else(|| ApiError::bad_request(code::ID_DOES_NOT_EXIST))?;
    server.flush_queue(dev_eui).await.map_err(refusal)?;
    state.admin().flush_downlinks(permit, by, row.id).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_an_even_number_of_hex_digits_and_no_longer_than_a_frame() {
        let read = |data: Value| {
            let body = json!({"data": data});
            let mut form = Form::of(&body);
            let bytes = read_data(&mut form);
            form.finish().map(|()| bytes).map_err(|e| e.body()["message"][0]["constraints"].clone())
        };
        assert_eq!(read(json!("0102FF")).unwrap(), [1, 2, 255]);
        assert_eq!(read(json!("xyz")).unwrap_err(), json!({"matches": "Must be hexadecimal"}));
        for bad in [json!("012"), json!(""), json!("+1"), json!(7), json!(null), json!("å1")] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        assert!(read(json!("00".repeat(242))).is_ok());
        assert!(read(json!("00".repeat(243))).is_err());
    }
}
