//! An application's devices as a CSV file, in the columns of the web client's import. Cells are quoted (RFC 4180); texts that a
//! spreadsheet would run as a formula get an apostrophe; secrets are for whoever may change the devices, which is noted in the
//! change log, and a mask for readers.
//! Limits: 100 000 devices.

use actix_web::get;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::ApplicationId;
use sluse_schema::port::admin::device::DeviceRow;
use sluse_schema::secret::Secret;

use super::access;
use super::device_shape::{MQTT_KEY, MQTT_PASSWORD, OTAA_KEY, has_secrets};
use super::mask::Secrets;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::PathId;

const NUM_DEVICES_MAX: i64 = 100_000;

const HEADER: &str = "name,id,type,latitude,longitude,commentOnLocation,comment,deviceModelId,apiKey,mqttURL,mqttPort,\
                      mqtttopicname,authenticationType,mqttusername,mqttpassword,caCertificate,deviceCertificate,\
                      deviceCertificateKey,devEUI,deviceProfileID,skipFCntCheck,activationType,OTAAapplicationKey\n";

/// The devices of an application as CSV.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = String, content_type = "application/octet-stream")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/getDevicesMetadataCsv/{id}")]
pub(super) async fn read(caller: Caller<Reader>, state: web::Data<AppState>, id: PathId) -> ApiResult {
    let application = ApplicationId(id.0);
    let Some(resource) = access::application(state.admin(), application).await? else {
        // Who may know that there is none gets a file without devices, as in the reference.
        return if caller.principal.is_global_admin() {
            Ok(file(HEADER.to_owned()))
        } else {
            Err(ApiError::forbidden())
        };
    };
    caller.read(resource.clone())?;
    let rows = state.admin().all_devices_of(application, NUM_DEVICES_MAX).await?;
    let with_secrets: Vec<i64> = rows.iter().filter(|row| has_secrets(row)).map(|row| row.id.0).collect();
    let mut secrets = Secrets::Masked;
    if let Ok(permit) = caller.write(resource) {
        state.admin().record_reveal(&permit, &caller.changed_by, ChangedEntity::Device, &with_secrets).await?;
        secrets = Secrets::Clear;
    }
    let mut csv = String::with_capacity(HEADER.len() + rows.len() * 128);
    csv.push_str(HEADER);
    for row in &rows {
        push_row(&mut csv, row, secrets);
    }
    Ok(file(csv))
}

fn file(csv: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/octet-stream"))
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"devices.csv\""))
        .body(csv)
}

fn push_row(csv: &mut String, row: &DeviceRow, secrets: Secrets) {
    let fields = &row.fields;
    let number = |n: Option<f64>| n.map(|n| n.to_string()).unwrap_or_default();
    let shown = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let setting = |name: &str| shown(fields.settings.get(name));
    let certificate = |name: &str| {
        let pem = setting(name);
        if pem.is_empty() { pem } else { STANDARD.encode(pem) }
    };
    let secret = |secret: Option<&Secret>| shown(Some(&secrets.shown(secret)));
    let lorawan = fields.settings.get("lorawanSettings");
    let of_lorawan = |name: &str| shown(lorawan.and_then(|nested| nested.get(name)));
    let key = fields.secrets.get(MQTT_KEY);
    // The import takes certificates and keys in base64.
    let key = if secrets == Secrets::Clear { key.map(|pem| STANDARD.encode(pem.reveal())) } else { Some(secret(key)) };
    let cells = [
        text(&fields.name),
        row.id.to_string(),
        fields.kind.as_str().to_owned(),
        number(fields.latitude),
        number(fields.longitude),
        text(fields.comment_on_location.as_deref().unwrap_or("")),
        text(fields.comment.as_deref().unwrap_or("")),
        fields.device_model.map(|id| id.to_string()).unwrap_or_default(),
        secret(fields.api_key.as_ref()),
        text(&setting("mqttURL")),
        setting("mqttPort"),
        text(&setting("mqtttopicname")),
        setting("authenticationType"),
        text(&setting("mqttusername")),
        text(&secret(fields.secrets.get(MQTT_PASSWORD))),
        certificate("caCertificate"),
        certificate("deviceCertificate"),
        key.unwrap_or_default(),
        fields.dev_eui.map(|eui| eui.to_string()).unwrap_or_default(),
        of_lorawan("deviceProfileID"),
        of_lorawan("skipFCntCheck"),
        of_lorawan("activationType"),
        secret(fields.secrets.get(OTAA_KEY)),
    ];
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            csv.push(',');
        }
        push_cell(csv, cell);
    }
    csv.push('\n');
}

/// A text that came from people, so that a spreadsheet does not run it.
fn text(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

fn push_cell(csv: &mut String, cell: &str) {
    if !cell.contains([',', '"', '\n', '\r']) {
        csv.push_str(cell);
        return;
    }
    csv.push('"');
    csv.push_str(&cell.replace('"', "\"\""));
    csv.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_would_break_the_row_are_quoted_and_formulas_defused() {
        let mut csv = String::new();
        for cell in ["plain", "a,b", "say \"x\"", "two\nlines"] {
            push_cell(&mut csv, cell);
            csv.push('|');
        }
        assert_eq!(csv, "plain|\"a,b\"|\"say \"\"x\"\"\"|\"two\nlines\"|");
        assert_eq!(text("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(text("Room 1"), "Room 1");
    }
}
