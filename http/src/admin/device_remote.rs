//! What a device needs besides its row before it can be stored: a hash or a certificate for our own MQTT broker, a registration at
//! Sigfox. Done between the check of the permit and the write, so that nothing is made for who may not.

use serde_json::{Value, json};
use sluse_schema::id::OrganizationId;
use sluse_schema::port::admin::device::{DeviceFields, DeviceType};
use sluse_schema::port::sigfox::{SigfoxCallback, SigfoxError};
use sluse_schema::secret::Secret;

use super::device_shape::{MQTT_KEY, MQTT_PASSWORD, MQTT_PASSWORD_HASH, SIGFOX_PAC};
use super::devices::device_error;
use super::sigfox::of_sigfox;
use crate::context::AppState;
use crate::error::{ApiResult, code};

/// The body that Sigfox is to call us with.
const CALLBACK_BODY: &str = "{\n  \"time\": {time},\n  \"deviceTypeId\": \"{deviceTypeId}\",\n  \"deviceId\": \"{device}\",\n  \"data\": \"{data}\",\n  \
     \"seqNumber\": {seqNumber},\n  \"ack\": {ack}\n}";

/// Completes what is to be stored. `before`: the device as it is, when it is changed.
pub async fn prepare(
    state: &AppState,
    organization: OrganizationId,
    before: Option<&DeviceFields>,
    mut fields: DeviceFields,
) -> ApiResult<DeviceFields> {
    match fields.kind {
        DeviceType::MqttInternalBroker => identify(state, before, &mut fields).await?,
        DeviceType::Sigfox => register(state, organization, before, &mut fields).await?,
        DeviceType::GenericHttp | DeviceType::Lorawan | DeviceType::MqttExternalBroker => {}
    }
    Ok(fields)
}

fn text<'a>(fields: &'a DeviceFields, name: &str) -> Option<&'a str> {
    fields.settings.get(name).and_then(Value::as_str)
}

/// What a device of our own broker proves itself with. A certificate stays as long as the device keeps using one.
async fn identify(state: &AppState, before: Option<&DeviceFields>, fields: &mut DeviceFields) -> ApiResult<()> {
    fields.settings.insert("mqttURL".into(), format!("mqtts://{}", state.config.mqtt_broker_hostname).into());
    if text(fields, "authenticationType") == Some("PASSWORD") {
        let Some(password) = fields.secrets.get(MQTT_PASSWORD).cloned() else { return Ok(()) };
        let kept = before
            .filter(|before| before.secrets.get(MQTT_PASSWORD) == Some(&password))
            .and_then(|before| before.secrets.get(MQTT_PASSWORD_HASH).cloned());
        let hash = match kept {
            Some(hash) => hash,
            None => Secret::new(state.ports.identities.hash_password(&password).await),
        };
        fields.secrets.insert(MQTT_PASSWORD_HASH.into(), hash);
        return Ok(());
    }
    const CERTIFICATE: [&str; 3] = ["caCertificate", "deviceCertificate", "mqttusername"];
    if let Some((before, key)) = before.and_then(|before| Some((before, before.secrets.get(MQTT_KEY)?.clone()))) {
        for name in CERTIFICATE {
            if let Some(value) = before.settings.get(name) {
                fields.settings.insert(name.into(), value.clone());
            }
        }
        fields.secrets.insert(MQTT_KEY.into(), key);
        return Ok(());
    }
    let issued = state.ports.identities.issue(&fields.name).await?;
    for (name, value) in CERTIFICATE.into_iter().zip([issued.authority, issued.certificate, fields.name.clone()]) {
        fields.settings.insert(name.into(), value.into());
    }
    fields.secrets.insert(MQTT_KEY.into(), issued.key);
    Ok(())
}

/// Registers a device at Sigfox, or takes over one that is there, and keeps what Sigfox says of it.
async fn register(
    state: &AppState,
    organization: OrganizationId,
    before: Option<&DeviceFields>,
    fields: &mut DeviceFields,
) -> ApiResult<()> {
    let group = fields.settings.get("sigfoxGroupId").and_then(Value::as_i64).unwrap_or_default();
    let group = match state.admin().sigfox_group(group).await {
        // Another tenant's login is as good as none.
        Ok(group) if group.organization.id == organization => group,
        Ok(_) | Err(sluse_schema::port::admin::AdminError::NotFound) => {
            return Err(device_error(code::ID_DOES_NOT_EXIST));
        }
        Err(error) => return Err(error.into()),
    };
    let (sigfox, login) = (&state.ports.sigfox, &group.login);
    let connects = fields.settings.remove("connectToExistingDeviceInBackend") == Some(Value::Bool(true));
    let mut id = text(fields, "deviceId").unwrap_or_default().to_owned();
    if before.is_none() && !connects {
        id = sigfox.create_device(login, &new_device(fields)).await.map_err(of_sigfox)?;
    }
    let known = sigfox.device(login, &id).await.map_err(|error| match error {
        SigfoxError::NotFound => device_error(code::DEVICE_DOES_NOT_EXIST_IN_SIGFOX_FOR_GROUP),
        other => of_sigfox(other),
    })?;
    let of_known = |path: &str| known.pointer(path).cloned().unwrap_or(Value::Null);
    let known_type = of_known("/deviceType/id").as_str().unwrap_or_default().to_owned();
    let device_type = text(fields, "deviceTypeId").filter(|id| !id.is_empty()).unwrap_or(&known_type).to_owned();
    let mut type_name = of_known("/deviceType/name");
    if before.is_some() || connects {
        let changes = json!({
            "name": fields.name,
            "lat": fields.latitude,
            "lng": fields.longitude,
            "activable": true,
            "automaticRenewal": known["automaticRenewal"].as_bool().unwrap_or(true),
        });
        if before.is_some() {
            sigfox.update_device(login, &id, &changes).await.map_err(of_sigfox)?;
        }
        if device_type != known_type {
            sigfox.change_device_type(login, &id, &device_type).await.map_err(of_sigfox)?;
            type_name = Value::Null;
        }
    }
    if !device_type.is_empty() {
        sigfox.set_callback(login, &device_type, &callback(state)).await.map_err(of_sigfox)?;
    }
    let pac = of_known("/pac").as_str().map(Secret::new).or_else(|| fields.secrets.get(SIGFOX_PAC).cloned());
    if let Some(pac) = pac {
        fields.secrets.insert(SIGFOX_PAC.into(), pac);
    }
    let downlink = before.and_then(|before| before.settings.get("downlinkPayload").cloned());
    for (name, value) in [
        ("deviceId", json!(id)),
        ("deviceTypeId", json!(device_type)),
        ("deviceTypeName", type_name),
        ("groupId", json!(group.sigfox_group_id)),
        ("groupName", of_known("/group/name")),
        ("endProductCertificate", of_known("/productCertificate/key")),
        ("prototype", json!(known["prototype"].as_bool().unwrap_or(false))),
        ("downlinkPayload", downlink.unwrap_or(Value::Null)),
    ] {
        // What Sigfox does not say stays as it was sent.
        if !value.is_null() || !fields.settings.contains_key(name) {
            fields.settings.insert(name.into(), value);
        }
    }
    Ok(())
}

/// A device as Sigfox wants it registered.
fn new_device(fields: &DeviceFields) -> Value {
    let is_prototype = fields.settings.get("prototype") == Some(&Value::Bool(true));
    let mut device = json!({
        "id": text(fields, "deviceId"),
        "name": fields.name,
        "pac": fields.secrets.get(SIGFOX_PAC).map(Secret::reveal),
        "deviceTypeId": text(fields, "deviceTypeId"),
        "activable": true,
        "automaticRenewal": true,
        "lat": fields.latitude,
        "lng": fields.longitude,
        "prototype": is_prototype,
    });
    if !is_prototype {
        device["productCertificate"] = json!({"key": text(fields, "endProductCertificate")});
    }
    device
}

fn callback(state: &AppState) -> SigfoxCallback {
    let base_url = state.config.backend_base_url.clone();
    SigfoxCallback {
        url: format!("{base_url}/api/v1/sigfox-callback/data/bidir?apiKey={{deviceTypeId}}"),
        base_url,
        body_template: CALLBACK_BODY.to_owned(),
    }
}
