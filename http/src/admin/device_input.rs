//! What a client says of a device, checked in the reference's words, and what becomes of a stored device by it. Pure.
//!
//! On a change, texts that are not sent stay, a place or a model that is not sent goes, and secrets follow [`super::mask`]. Where the
//! reference asks for what only its network server needs (`deviceProfileID`, `activationType`), Sluse takes a device without.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sluse_schema::id::{ApplicationId, DevEui};
use sluse_schema::port::admin::device::{DeviceFields, DeviceType};
use sluse_schema::secret::Secret;

use super::device_shape::{
    APPLICATION_SESSION_KEY, MQTT_KEY, MQTT_PASSWORD, NETWORK_SESSION_KEY, OTAA_KEY, SIGFOX_PAC,
};
use super::mask::{NO_NUL, means_keep, merged};
use crate::error::code;
use crate::validate::{Form, Rule};

/// A device as a body describes it.
#[derive(Clone, Debug)]
pub struct DeviceInput {
    pub application: ApplicationId,
    pub kind: DeviceType,
    fields: DeviceFields,
    /// Names of top-level fields that the body holds, `null` included.
    has: Vec<&'static str>,
}

const TEXTS: [&str; 3] = ["commentOnLocation", "comment", "metadata"];

/// Reads a body; what is wrong is noted in `form`. `stored` is the device that is changed.
pub fn read(form: &mut Form<'_>, stored: Option<&DeviceFields>) -> Option<DeviceInput> {
    let name = form.text("name", &[Rule::Min(1), Rule::Max(50)]);
    let kind = form.one_of("type", &DeviceType::ALL.map(DeviceType::as_str));
    let application = ApplicationId(form.id("applicationId", Some(1)));
    let longitude = form.number_opt("longitude", Some(-180.0), Some(180.0));
    let latitude = form.number_opt("latitude", Some(-90.0), Some(90.0));
    let comment_on_location = form.text_opt("commentOnLocation", &[Rule::Max(1024)]);
    let comment = form.text_opt("comment", &[Rule::Max(1024)]);
    let metadata = read_metadata(form);
    // 0 is the web client's "none".
    let device_model = form.int_opt("deviceModelId", None, None).filter(|id| *id != 0);
    let kind = DeviceType::of_str(&kind)?;
    // Secrets of a device of another type say nothing about this one.
    let stored = stored.filter(|fields| fields.kind == kind);
    let mut fields = DeviceFields {
        application,
        device_model,
        kind,
        name,
        // Half a place is none.
        longitude: longitude.and(latitude).and(longitude),
        latitude: longitude.and(latitude),
        comment_on_location,
        comment,
        metadata,
        dev_eui: None,
        api_key: None,
        settings: Map::new(),
        secrets: BTreeMap::new(),
    };
    let name = match kind {
        DeviceType::GenericHttp => None,
        DeviceType::Lorawan => Some("lorawanSettings"),
        DeviceType::Sigfox => Some("sigfoxSettings"),
        DeviceType::MqttInternalBroker => Some("mqttInternalBrokerSettings"),
        DeviceType::MqttExternalBroker => Some("mqttExternalBrokerSettings"),
    };
    if let Some(name) = name {
        match form.get(name) {
            Some(nested) if nested.is_object() => {
                let inner = read_settings(nested, stored, &mut fields);
                form.close_inside(name, inner);
            }
            Some(_) => {
                let text = format!("each value in nested property {name} must be either object or array");
                form.fail(name, "nestedValidation", text);
            }
            None => form.fail(name, "isDefined", format!("{name} should not be null or undefined")),
        }
    }
    let has = TEXTS.into_iter().filter(|name| form.has(name)).collect();
    Some(DeviceInput { application, kind, fields, has })
}

fn read_metadata(form: &mut Form<'_>) -> Option<String> {
    let value = form.get("metadata")?;
    let is_blank = |value: &Value| value.as_str().is_none_or(|text| text.trim().is_empty());
    let problem = match value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        None | Some(Value::Null) => Some("metadata must be a valid list of metadata keys and values"),
        Some(Value::Object(map)) if map.keys().any(|key| key.trim().is_empty()) => {
            Some(code::INVALID_KEY_IN_KEY_VALUE_PAIR)
        }
        Some(Value::Object(map)) if map.values().any(is_blank) => Some(code::INVALID_VALUE_IN_KEY_VALUE_PAIR),
        // The reference goes through the names of whatever it is: those of a list are numbers, a figure has none.
        Some(Value::Array(items)) if items.iter().any(is_blank) => Some(code::INVALID_VALUE_IN_KEY_VALUE_PAIR),
        Some(Value::String(text)) if text.chars().any(char::is_whitespace) => {
            Some(code::INVALID_VALUE_IN_KEY_VALUE_PAIR)
        }
        Some(_) => None,
    };
    if let Some(text) = problem {
        form.fail("metadata", "isMetadataJson", text);
    }
    value.as_str().map(str::to_owned)
}

/// Reads the settings of the device's type into `fields`.
fn read_settings<'a>(nested: &'a Value, stored: Option<&DeviceFields>, fields: &mut DeviceFields) -> Form<'a> {
    let mut form = Form::of(nested);
    let mut settings = Settings { nested, stored, fields };
    match settings.fields.kind {
        DeviceType::GenericHttp => {}
        DeviceType::Lorawan => settings.lorawan(&mut form),
        DeviceType::Sigfox => settings.sigfox(&mut form),
        DeviceType::MqttInternalBroker => settings.internal_broker(&mut form),
        DeviceType::MqttExternalBroker => settings.external_broker(&mut form),
    }
    form
}

struct Settings<'a> {
    nested: &'a Value,
    stored: Option<&'a DeviceFields>,
    fields: &'a mut DeviceFields,
}

impl Settings<'_> {
    fn keep(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.settings.insert(name.to_owned(), value.into());
    }

    fn stored_secret(&self, name: &str) -> Option<&Secret> {
        self.stored.and_then(|fields| fields.secrets.get(name))
    }

    /// A secret that must be there after the write; `check` looks at what was sent.
    fn secret(&mut self, form: &mut Form<'_>, name: &str, check: impl FnOnce(&mut Form<'_>)) {
        let sent = self.nested.get(name);
        let is_kept = means_keep(sent) && self.stored_secret(name).is_some();
        if !is_kept {
            check(form);
            form.beyond(|form| form.text_opt(name, &[NO_NUL]));
        }
        self.secret_opt(name);
    }

    fn secret_opt(&mut self, name: &str) {
        // A mask without anything behind it is no secret: `merged` makes nothing of it.
        if let Some(secret) = merged(self.nested.get(name), self.stored_secret(name)) {
            self.fields.secrets.insert(name.to_owned(), secret);
        }
    }

    /// Settings that decoders see as `metadata.lorawanSettings` stand under that name.
    fn lorawan(&mut self, form: &mut Form<'_>) {
        let typed = hex(form, "devEUI", 16);
        self.fields.dev_eui = typed.parse::<DevEui>().ok();
        let mut nested = Map::new();
        nested.insert("devEUI".into(), typed.to_ascii_lowercase().into());
        self.keep("deviceEUI", typed);
        for name in ["isDisabled", "skipFCntCheck"] {
            let flag = form.beyond(|form| form.boolean_opt(name));
            nested.insert(name.into(), flag.unwrap_or(false).into());
        }
        let activation = form
            .beyond(|form| form.one_of_opt("activationType", &["NONE", "OTAA", "ABP"]))
            .unwrap_or_else(|| "NONE".to_owned());
        match activation.as_str() {
            "OTAA" => self.secret(form, OTAA_KEY, |form| drop(hex(form, OTAA_KEY, 32))),
            "ABP" => {
                let address = hex(form, "devAddr", 8);
                nested.insert("devAddr".into(), address.into());
                for name in ["fCntUp", "nFCntDown"] {
                    if !form.get(name).is_some_and(Value::is_number) {
                        let text = format!("{name} must be a number conforming to the specified constraints");
                        form.fail(name, "isNumber", text);
                    }
                    let count = form.int_capped(name, Some(0), i64::from(u32::MAX));
                    nested.insert(name.into(), count.into());
                }
                for name in [NETWORK_SESSION_KEY, APPLICATION_SESSION_KEY] {
                    self.secret(form, name, |form| drop(hex(form, name, 32)));
                }
            }
            _ => {}
        }
        // Last of all, as the reference looks at it.
        if let Some(profile) = form.text_opt("deviceProfileID", &[Rule::Uuid]) {
            nested.insert("deviceProfileID".into(), profile.into());
        }
        nested.insert("activationType".into(), activation.into());
        self.keep("lorawanSettings", nested);
    }

    fn sigfox(&mut self, form: &mut Form<'_>) {
        const DEVICE: &str = "deviceId must match /[0-9A-Fa-f]{1,8}/ regular expression";
        let device = form.text("deviceId", &[holds_hex(DEVICE), Rule::Max(8)]);
        form.beyond(|form| form.checked_text("deviceId", &[sigfox_hex::<8>(DEVICE)]));
        let group = form.id("groupId", None);
        const KIND: &str = "deviceTypeId must match /[0-9A-Fa-f]{1,24}/ regular expression";
        const PAC: &str = "pac must match /[0-9A-Fa-f]+/ regular expression";
        let kind_rules = [holds_hex(KIND), Rule::Max(24)];
        let connects = form.beyond(|form| form.boolean_opt("connectToExistingDeviceInBackend")).unwrap_or(false);
        let is_prototype = form.beyond(|form| form.boolean_opt("prototype")).unwrap_or(false);
        if !connects {
            let kind = form.text("deviceTypeId", &kind_rules);
            form.beyond(|form| form.checked_text("deviceTypeId", &[sigfox_hex::<24>(KIND)]));
            self.keep("deviceTypeId", kind);
            self.secret(form, SIGFOX_PAC, |form| {
                form.text(SIGFOX_PAC, &[holds_hex(PAC)]);
                form.beyond(|form| form.checked_text(SIGFOX_PAC, &[sigfox_hex::<{ usize::MAX }>(PAC)]));
            });
            if !is_prototype {
                let certificate = form.text("endProductCertificate", &[]);
                self.keep("endProductCertificate", certificate);
            }
        } else if let Some(kind) = form.beyond(|form| form.text_opt("deviceTypeId", &[sigfox_hex::<24>(KIND)])) {
            self.keep("deviceTypeId", kind);
        }
        self.keep("deviceId", device);
        // What Sigfox calls the group is put beside it when the device is registered there.
        self.keep("sigfoxGroupId", group);
        self.keep("connectToExistingDeviceInBackend", connects);
        self.keep("prototype", is_prototype);
    }

    fn internal_broker(&mut self, form: &mut Form<'_>) {
        let uses_password = self.authentication(form, None);
        self.keep("mqttPort", if uses_password == Some(true) { 8885 } else { 8884 });
        self.keep("permissions", "write");
        // The topic names the row: the store wrote it when the device was made.
        for name in ["mqtttopicname", "mqttURL"] {
            if let Some(value) = self.stored.and_then(|fields| fields.settings.get(name)) {
                let value = value.clone();
                self.keep(name, value);
            }
        }
    }

    fn external_broker(&mut self, form: &mut Form<'_>) {
        let is_broker =
            |text: &str| text.len() <= 1024 && (text.starts_with("mqtt://") || text.starts_with("mqtts://"));
        let url = form
            .text("mqttURL", &[Rule::Custom("matches", "Der skal tilføjes protokol (mqtt/mqtts) på url", is_broker)]);
        // In the reference's Danish words, which the web client shows as they come.
        let number = form.get("mqttPort").and_then(Value::as_f64);
        if number.is_none() {
            form.fail("mqttPort", "isNumber", "Port skal udfyldes");
        }
        if number.is_none_or(|port| port > 65_535.0) {
            form.fail("mqttPort", "max", "Port skal være under 65535");
        }
        if number.is_none_or(|port| port < 0.0) {
            form.fail("mqttPort", "min", "Port skal være over 0");
        }
        let port = number.filter(|port| port.fract() == 0.0).map(|port| port as i64);
        if number.is_some() && port.is_none() {
            form.fail("mqttPort", "isInt", "mqttPort must be an integer number");
        }
        let port = port.unwrap_or_default();
        let topic = form.text("mqtttopicname", &[]);
        form.beyond(|form| form.checked_text("mqtttopicname", &[Rule::Min(1), Rule::Max(1024)]));
        self.keep("mqttURL", url);
        self.keep("mqttPort", port);
        self.keep("mqtttopicname", topic);
        if self.authentication(form, Some("Der skal vælges en autentifikations type")) == Some(false) {
            for (name, text) in [
                ("caCertificate", "CA certifikatet mangler eller er forkert format"),
                ("deviceCertificate", "Enheds certifikat mangler eller er forkert format"),
            ] {
                let certificate =
                    form.text(name, &[Rule::Custom("matches", text, |t| t.contains("-----BEGIN CERTIFICATE-----"))]);
                self.keep(name, certificate);
            }
            self.secret(form, MQTT_KEY, |form| {
                let rule = Rule::Custom("matches", "Enheds certifikatnøgle mangler eller er forkert format", |t| {
                    t.contains("PRIVATE KEY-----")
                });
                drop(form.text(MQTT_KEY, &[rule]));
            });
        }
        self.keep("invalidMqttConfig", false);
    }

    /// How the device proves who it is; `true` for a password, `None` when that is not said. `text`: how it is asked for.
    fn authentication(&mut self, form: &mut Form<'_>, text: Option<&str>) -> Option<bool> {
        const NAME: &str = "authenticationType";
        const KINDS: [&str; 2] = ["PASSWORD", "CERTIFICATE"];
        let kind = form.one_of(NAME, &KINDS);
        let is_known = KINDS.contains(&kind.as_str());
        if !is_known && let Some(text) = text {
            form.fail(NAME, "isEnum", text);
        }
        let uses_password = kind == "PASSWORD";
        self.keep(NAME, kind);
        if uses_password {
            let username = form.text("mqttusername", &[Rule::Min(1), Rule::Max(1024)]);
            self.keep("mqttusername", username);
            self.secret(form, MQTT_PASSWORD, |form| drop(form.text(MQTT_PASSWORD, &[Rule::Min(1), Rule::Max(1024)])));
        }
        is_known.then_some(uses_password)
    }
}

/// Hex digits and nothing else, one to `MAX`, refused in the words that the reference has for it.
fn sigfox_hex<const MAX: usize>(text: &'static str) -> Rule {
    Rule::Custom("matches", text, |t| (1..=MAX).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A hex digit somewhere: all that the reference asks for, in these words.
fn holds_hex(text: &'static str) -> Rule {
    Rule::Custom("matches", text, |t| t.bytes().any(|b| b.is_ascii_hexdigit()))
}

/// A text of exactly so many hex digits.
fn hex(form: &mut Form<'_>, name: &str, num_digits: usize) -> String {
    form.text(name, &[Rule::Hexadecimal, Rule::Length(num_digits, num_digits)])
}

impl DeviceInput {
    /// The id of the model that the device is to have. One that is not sent goes, as in the reference.
    pub fn device_model(&self) -> Option<i64> {
        self.fields.device_model
    }

    /// A new device. `api_key` is for HTTP devices.
    pub fn into_new(self, api_key: impl FnOnce() -> Secret) -> DeviceFields {
        let api_key = (self.kind == DeviceType::GenericHttp).then(api_key);
        DeviceFields { api_key, ..self.fields }
    }

    /// `stored` after the change. Its type has to be the same.
    pub fn into_changed(self, stored: &DeviceFields) -> DeviceFields {
        let has = |name: &str| self.has.contains(&name);
        let text = |name, sent: &Option<String>, stored: &Option<String>| {
            if has(name) { sent.clone() } else { stored.clone() }
        };
        DeviceFields {
            comment_on_location: text(
                "commentOnLocation",
                &self.fields.comment_on_location,
                &stored.comment_on_location,
            ),
            comment: text("comment", &self.fields.comment, &stored.comment),
            metadata: text("metadata", &self.fields.metadata, &stored.metadata),
            api_key: stored.api_key.clone(),
            ..self.fields
        }
    }

    /// What the answer to a change shows of texts that were not sent: nothing, as in the reference, though they stay.
    pub fn hide_unsent(&self, shown: &mut Value) {
        for name in ["commentOnLocation", "comment", "metadata"] {
            if !self.has.contains(&name) {
                shown[name] = json!(null);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{FieldError, MASK};

    fn read_new(body: Value) -> Result<DeviceFields, Vec<FieldError>> {
        let mut form = Form::of(&body);
        let input = read(&mut form, None);
        let errors = form.into_errors();
        match input {
            Some(input) if errors.is_empty() => Ok(input.into_new(|| Secret::new("key"))),
            _ => Err(errors),
        }
    }

    fn change(stored: &DeviceFields, body: Value) -> Result<DeviceFields, Vec<FieldError>> {
        let mut form = Form::of(&body);
        let input = read(&mut form, Some(stored));
        let errors = form.into_errors();
        match input {
            Some(input) if errors.is_empty() => Ok(input.into_changed(stored)),
            _ => Err(errors),
        }
    }

    fn otaa(key: Value) -> Value {
        json!({"name": "Meter", "type": "LORAWAN", "applicationId": 1, "lorawanSettings": {
            "devEUI": "A81758FFFE000001", "activationType": "OTAA", OTAA_KEY: key,
        }})
    }

    const KEY: &str = "00112233445566778899AABBCCDDEEFF";

    #[test]
    fn a_dev_eui_is_taken_in_capitals_looked_up_in_lower_case_and_kept_as_typed() {
        let fields = read_new(otaa(json!(KEY))).unwrap();
        assert_eq!(fields.dev_eui.unwrap().to_string(), "a81758fffe000001");
        assert_eq!(fields.settings["deviceEUI"], "A81758FFFE000001");
        assert_eq!(fields.secrets[OTAA_KEY].reveal(), KEY);
        assert!(!fields.settings.contains_key(OTAA_KEY), "secrets are not among the settings");
    }

    #[test]
    fn a_key_is_required_when_it_is_new_and_kept_when_the_mask_comes_back() {
        for missing in [json!(null), json!(MASK), json!(""), json!("xyz")] {
            assert!(read_new(otaa(missing.clone())).is_err(), "{missing}");
        }
        let stored = read_new(otaa(json!(KEY))).unwrap();
        for kept in [json!(null), json!(MASK)] {
            assert_eq!(change(&stored, otaa(kept)).unwrap().secrets[OTAA_KEY].reveal(), KEY);
        }
        let other = "ffeeddccbbaa99887766554433221100";
        assert_eq!(change(&stored, otaa(json!(other))).unwrap().secrets[OTAA_KEY].reveal(), other);
        assert!(change(&stored, otaa(json!(""))).is_err());
    }

    /// As the reference answered, recorded: which settings, in which order, under which constraints.
    #[test]
    fn what_is_wrong_with_settings_is_said_in_the_references_order_and_words() {
        let wrong = |name: &str, body: Value| -> Vec<(String, Vec<String>)> {
            let item = read_new(body).unwrap_err().remove(0).into_json();
            assert_eq!(item["property"], name);
            let items = item["children"].as_array().unwrap().clone();
            let keys = |item: &Value| item["constraints"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            items.iter().map(|item| (item["property"].as_str().unwrap().to_owned(), keys(item))).collect()
        };
        let abp = json!({"name": "L", "type": "LORAWAN", "applicationId": 1, "lorawanSettings": {
            "devEUI": "a81758fffe0000aa", "deviceProfileID": "no", "activationType": "ABP", "devAddr": "01020304",
            "nFCntDown": 1.5, NETWORK_SESSION_KEY: KEY, APPLICATION_SESSION_KEY: KEY,
        }});
        let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            wrong("lorawanSettings", abp),
            [
                ("fCntUp".to_owned(), keys(&["isNumber", "isInt", "min"])),
                ("nFCntDown".to_owned(), keys(&["isInt"])),
                ("deviceProfileID".to_owned(), keys(&["isUuid"])),
            ]
        );
        let sigfox = json!({"name": "S", "type": "SIGFOX", "applicationId": 1, "sigfoxSettings": {
            "deviceId": "", "groupId": 1, "deviceTypeId": "5f1e", "pac": "zz", "endProductCertificate": "",
        }});
        assert_eq!(
            wrong("sigfoxSettings", sigfox),
            [("deviceId".to_owned(), keys(&["matches"])), ("pac".to_owned(), keys(&["matches"]))]
        );
    }

    #[test]
    fn texts_that_are_not_sent_stay_null_clears_them_and_a_place_or_a_model_that_is_not_sent_goes() {
        let http = |more: Value| {
            let mut body = json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": 1});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let stored = read_new(http(json!({
            "comment": "c", "metadata": "{\"room\":\"1\"}", "longitude": 10.2, "latitude": 56.1, "deviceModelId": 4,
        })))
        .unwrap();
        let kept = change(&stored, http(json!({}))).unwrap();
        assert_eq!((kept.comment.as_deref(), kept.metadata.is_some()), (Some("c"), true));
        assert_eq!((kept.longitude, kept.latitude, kept.device_model), (None, None, None), "as in the reference");
        assert_eq!(kept.api_key, stored.api_key);
        let cleared = change(&stored, http(json!({"comment": null, "deviceModelId": 4}))).unwrap();
        assert_eq!((cleared.comment, cleared.device_model), (None, Some(4)));
    }

    #[test]
    fn metadata_is_json_whose_parts_are_texts() {
        let body =
            |metadata: Value| json!({"name": "R", "type": "GENERIC_HTTP", "applicationId": 1, "metadata": metadata});
        assert!(read_new(body(json!("{\"a\":\"b\"}"))).is_ok());
        for bad in
            [json!("{\"a\":\"\"}"), json!("{\" \":\"b\"}"), json!("{\"a\":1}"), json!("null"), json!("x"), json!(7)]
        {
            assert!(read_new(body(bad.clone())).is_err(), "{bad}");
        }
        for odd in ["[]", "[\"a\"]", "7", "\"x\"", "{}"] {
            assert!(read_new(body(json!(odd))).is_ok(), "taken by the reference: {odd}");
        }
        assert!(read_new(body(json!("[1]"))).is_err());
    }

    #[test]
    fn a_device_without_the_settings_of_its_type_is_refused() {
        for kind in ["LORAWAN", "SIGFOX", "MQTT_INTERNAL_BROKER", "MQTT_EXTERNAL_BROKER"] {
            assert!(read_new(json!({"name": "X", "type": kind, "applicationId": 1})).is_err(), "{kind}");
        }
    }
}
