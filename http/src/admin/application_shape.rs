//! Applications and their devices as answers show them.

use serde_json::{Value, json};
use sluse_schema::port::admin::{ApplicationDetail, DeviceListing, DeviceSummary, MapDevice, TargetSummary};

use super::view;
use crate::validate::MASK;

/// An application with everything that its page shows.
pub fn full(detail: &ApplicationDetail) -> Value {
    let mut row = view::with_authors(listing(detail), &detail.application.stamps);
    row["belongsTo"] = view::organization(&detail.organization);
    row["permissions"] = detail.permissions.iter().map(view::permission).collect();
    row
}

/// An application as lists show it.
pub fn listing(detail: &ApplicationDetail) -> Value {
    let application = &detail.application;
    let types = |types: &[String]| -> Value {
        types
            .iter()
            .enumerate()
            .map(|(index, name)| view::base(index as i64 + 1, &application.stamps, json!({"type": name})))
            .collect()
    };
    let mut row = view::application(application);
    row["iotDevices"] = detail.devices.iter().map(device).collect();
    row["dataTargets"] = detail.targets.iter().map(target).collect();
    row["controlledProperties"] = types(&application.controlled_properties);
    row["deviceTypes"] = types(&application.device_types);
    row
}

fn target(target: &TargetSummary) -> Value {
    let fields = json!({
        "type": target.r#type,
        "name": target.name,
        "lastMessageDate": view::instant_opt(target.last_message_at),
    });
    let mut row = view::base(target.id, &target.stamps, fields);
    view::extend(&mut row, target.settings.clone());
    let masked = if target.has_secrets { json!(MASK) } else { Value::Null };
    match target.r#type.as_str() {
        "HTTP_PUSH" => row["authorizationHeader"] = masked,
        // One that logs in for a token has no header of its own, most likely; which secret it has stands in its row alone.
        "FIWARE" => row["authorizationHeader"] = if row["clientId"].is_null() { masked } else { Value::Null },
        "MQTT" => row["mqttPassword"] = masked,
        _ => {}
    }
    row
}

/// A device as lists show it. Its key is not for everybody who may see it.
pub fn device(device: &DeviceSummary) -> Value {
    let fields = json!({
        "name": device.name,
        "type": device.r#type,
        "location": view::location(device.longitude, device.latitude),
        "commentOnLocation": device.comment_on_location,
        "comment": device.comment,
        "metadata": device.metadata,
    });
    let mut row = view::base(device.id, &device.stamps, fields);
    view::extend(&mut row, device.settings.clone());
    match device.r#type.as_str() {
        "GENERIC_HTTP" => row["apiKey"] = json!(MASK),
        "LORAWAN" => {
            // As it was typed, when the settings have it.
            if row.get("deviceEUI").is_none() {
                row["deviceEUI"] = json!(device.device_eui);
            }
            row["OTAAapplicationKey"] = if activation(device) == "OTAA" { json!(MASK) } else { Value::Null };
            for absent in ["deviceProfileName", "chirpstackApplicationId"] {
                if row.get(absent).is_none() {
                    row[absent] = Value::Null;
                }
            }
        }
        "MQTT_INTERNAL_BROKER" | "MQTT_EXTERNAL_BROKER" => {
            for absent in ["caCertificate", "deviceCertificate"] {
                if row.get(absent).is_none() {
                    row[absent] = Value::Null;
                }
            }
            let by_password = row["authenticationType"] == "PASSWORD";
            let by_key = !by_password && device.r#type == "MQTT_EXTERNAL_BROKER";
            row["mqttpassword"] = if by_password { json!(MASK) } else { Value::Null };
            row["deviceCertificateKey"] = if by_key { json!(MASK) } else { Value::Null };
        }
        _ => {}
    }
    row["latestReceivedMessage"] = device.latest.map_or(Value::Null, |latest| {
        json!({
            "id": device.id,
            "createdAt": view::instant(latest.received_at),
            "updatedAt": view::instant(latest.received_at),
            "sentTime": view::instant(latest.sent_at),
            "rssi": latest.rssi_dbm,
            "snr": latest.snr_db,
        })
    });
    row
}

/// How a LoRaWAN device gets its session: `OTAA`, `ABP` or `NONE`.
fn activation(device: &DeviceSummary) -> &str {
    device.settings.pointer("/lorawanSettings/activationType").and_then(Value::as_str).unwrap_or("NONE")
}

/// A device in the list of its application.
pub fn device_listing(listing: &DeviceListing) -> Value {
    let mut row = device(&listing.device);
    if row["latestReceivedMessage"].is_object() {
        let raw = listing.latest_payload.as_deref().map(super::device_shape::raw_data);
        row["latestReceivedMessage"]["rawData"] = json!(raw);
    }
    row["deviceModel"] = listing
        .device_model
        .as_ref()
        .map_or(Value::Null, |(id, body, stamps)| view::base(*id, stamps, json!({"body": body})));
    row["connections"] = listing.connections.iter().map(|(id, stamps)| view::base(*id, stamps, json!({}))).collect();
    if listing.device.r#type == "LORAWAN" {
        if !row["lorawanSettings"].is_object() {
            row["lorawanSettings"] = json!({"devEUI": listing.device.device_eui});
        }
        let secrets: &[&str] = match activation(&listing.device) {
            "OTAA" => &["OTAAapplicationKey"],
            "ABP" => &["networkSessionKey", "applicationSessionKey"],
            _ => &[],
        };
        for name in secrets {
            row["lorawanSettings"][name] = json!(MASK);
        }
        row["lorawanSettings"]["deviceStatusBattery"] = json!(listing.battery_level_percent);
    }
    row
}

/// A device on a map.
pub fn map_device(device: &MapDevice) -> Value {
    let mut row = json!({
        "id": device.id,
        "name": device.name,
        "type": device.r#type,
        "location": view::location(device.longitude, device.latitude),
    });
    if let Some(at) = device.latest_sent_at {
        row["latestSentMessage"] = json!(view::instant(at));
    }
    row
}
