//! What a client says of a gateway, checked in the reference's words. Pure. On a change what is not sent stays, `null` clears.

use std::collections::BTreeMap;

use serde_json::Value;
use sluse_schema::id::GatewayId;
use sluse_schema::port::admin::gateway::GatewayFields;

use super::applications::STATUSES;
use crate::validate::{Form, Rule};

const PLACEMENTS: [&str; 4] = ["NONE", "INDOORS", "OUTDOORS", "OTHER"];
/// Tags of one gateway, and characters of one of them.
const NUM_TAGS_MAX: usize = 100;
const TAG_CHARS_MAX: usize = 1024;
/// Beyond it ChirpStack refuses the place.
const ALTITUDE_MAX_M: f64 = 100_000.0;

/// A gateway as a body describes it.
#[derive(Clone, Debug)]
pub struct GatewayInput {
    /// Of a new one.
    pub gateway: Option<GatewayId>,
    pub fields: GatewayFields,
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A Danish number, with or without the country's code.
fn is_phone_number(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let local = digits.strip_prefix("+45").or_else(|| digits.strip_prefix("0045")).unwrap_or(&digits);
    local.len() == 8 && local.bytes().all(|b| b.is_ascii_digit()) && !local.starts_with(['0', '1'])
}

/// Reads the `gateway` of a body; what is wrong is noted in `form`. `stored` is the gateway that is changed.
pub fn read(form: &mut Form<'_>, stored: Option<&GatewayFields>) -> Option<GatewayInput> {
    match form.get("gateway") {
        Some(nested) if nested.is_object() => {
            let mut inner = Form::of(nested);
            let input = read_gateway(&mut inner, stored);
            form.close_inside("gateway", inner);
            Some(input)
        }
        Some(_) => {
            form.fail(
                "gateway",
                "nestedValidation",
                "each value in nested property gateway must be either object or array",
            );
            None
        }
        None => {
            form.fail("gateway", "isDefined", "gateway should not be null or undefined");
            None
        }
    }
}

fn read_gateway(form: &mut Form<'_>, stored: Option<&GatewayFields>) -> GatewayInput {
    let mut fields = stored.cloned().unwrap_or_default();
    let gateway = if stored.is_none() {
        let text = form.text("gatewayId", &[Rule::Hexadecimal, Rule::Length(16, 16)]);
        text.parse().ok()
    } else {
        None
    };
    let kept_text = |form: &mut Form<'_>, name: &'static str, rules: &[Rule], into: &mut Option<String>| {
        if form.has(name) {
            *into = form.text_opt(name, rules);
        }
    };
    // In the order in which the reference looks at them, which is the order of its answer.
    kept_text(form, "description", &[Rule::Max(1024)], &mut fields.description);
    read_location(form, &mut fields);
    if stored.is_none() || form.has("name") {
        const TEXT: &str = "The name may only contain words, numbers and dashes.";
        let rules = [Rule::Min(1), Rule::Max(50), Rule::Custom("matches", TEXT, is_name)];
        fields.name = form.text("name", &rules);
    }
    for (name, into) in [
        ("modelName", &mut fields.model_name),
        ("antennaType", &mut fields.antenna_type),
        ("gatewayResponsibleName", &mut fields.gateway_responsible_name),
        ("operationalResponsibleName", &mut fields.operational_responsible_name),
    ] {
        kept_text(form, name, &[Rule::Max(1024)], into);
    }
    for (name, into) in [
        ("gatewayResponsibleEmail", &mut fields.gateway_responsible_email),
        ("operationalResponsibleEmail", &mut fields.operational_responsible_email),
    ] {
        kept_text(form, name, if is_blank(form.get(name)) { &[] } else { &[Rule::Email] }, into);
    }
    const PHONE: &str = "gatewayResponsiblePhoneNumber must be a valid phone number";
    let phone = [Rule::Custom("isPhoneNumber", PHONE, is_phone_number)];
    let name = "gatewayResponsiblePhoneNumber";
    let rules = if is_blank(form.get(name)) { &[][..] } else { &phone[..] };
    kept_text(form, name, rules, &mut fields.gateway_responsible_phone_number);
    if form.has("placement") {
        fields.placement = form.one_of_opt("placement", &PLACEMENTS);
    }
    if form.has("status") {
        fields.status = form.one_of_opt("status", &STATUSES);
    }
    read_alarms(form, &mut fields);
    read_tags(form, &mut fields);
    GatewayInput { gateway, fields }
}

fn is_blank(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.as_str().is_some_and(|text| text.trim().is_empty()))
}

fn read_location(form: &mut Form<'_>, fields: &mut GatewayFields) {
    if !form.has("location") {
        return;
    }
    let nested = form.get("location").unwrap_or(&Value::Null);
    if nested == &Value::Array(Vec::new()) {
        // No place, and none that could be wrong.
        return;
    }
    if !nested.is_object() {
        let text = "each value in nested property location must be either object or array";
        return form.fail("location", "nestedValidation", text);
    }
    let mut inner = Form::of(nested);
    let longitude = inner.number("longitude", Some(-180.0), Some(180.0));
    let latitude = inner.number("latitude", Some(-90.0), Some(90.0));
    let altitude = match inner.get("altitude") {
        // The list shows it as text, and forms send it back so.
        Some(Value::String(text)) if text.trim().parse::<f64>().is_ok_and(|m| m.abs() <= ALTITUDE_MAX_M) => {
            text.trim().parse().ok()
        }
        _ => inner.beyond(|inner| inner.number_opt("altitude", Some(-ALTITUDE_MAX_M), Some(ALTITUDE_MAX_M))),
    };
    form.close_inside("location", inner);
    (fields.longitude, fields.latitude, fields.altitude) = (Some(longitude), Some(latitude), altitude);
}

/// `tagsString` is a JSON object of texts, as text.
fn read_tags(form: &mut Form<'_>, fields: &mut GatewayFields) {
    if !form.has("tagsString") {
        return;
    }
    let Some(value) = form.get("tagsString").filter(|value| !is_blank(Some(value))) else {
        fields.tags.clear();
        return;
    };
    let parsed = value.as_str().and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    match parsed {
        Some(tags)
            if tags.len() <= NUM_TAGS_MAX
                && tags.iter().all(|(name, value)| {
                    !name.is_empty() && name.len() <= TAG_CHARS_MAX && value.len() <= TAG_CHARS_MAX
                }) =>
        {
            fields.tags = tags;
        }
        _ => form.fail("tagsString", "IsJSONOrNull", "tagsString must be a valid JSON string"),
    }
}

fn read_alarms(form: &mut Form<'_>, fields: &mut GatewayFields) {
    if form.has("notifyOffline") {
        fields.notify_offline = form.boolean_opt("notifyOffline");
    }
    if form.has("notifyUnusualPackages") {
        fields.notify_unusual_packages = form.boolean_opt("notifyUnusualPackages");
    }
    // An alarm that is wanted by something else than `true` is wrong already, and to the reference it is wanted.
    let is_offline = form.is_truthy("notifyOffline").unwrap_or(fields.notify_offline == Some(true));
    let is_unusual = form.is_truthy("notifyUnusualPackages").unwrap_or(fields.notify_unusual_packages == Some(true));
    for (name, is_needed, min, into) in [
        ("offlineAlarmThresholdMinutes", is_offline, 1, &mut fields.offline_alarm_threshold_minutes),
        ("minimumPackages", is_unusual, 0, &mut fields.minimum_packages),
        ("maximumPackages", is_unusual, 0, &mut fields.maximum_packages),
    ] {
        if is_needed && (form.get(name).is_some() || into.is_none()) {
            *into = Some(form.int_capped(name, Some(min), i64::from(u32::MAX)));
        } else if form.has(name) {
            // Without its alarm a figure is kept when it is one.
            *into = form.get(name).and_then(Value::as_i64).filter(|n| (0..=i64::from(u32::MAX)).contains(n));
        }
    }
    if form.has("alarmMail") {
        let rules: &[Rule] = if is_blank(form.get("alarmMail")) { &[] } else { &[Rule::Email] };
        fields.alarm_mail = form.beyond(|form| form.text_opt("alarmMail", rules));
    }
    let has_mail =
        form.is_truthy("alarmMail").unwrap_or_else(|| fields.alarm_mail.as_deref().is_some_and(|m| !m.is_empty()));
    if (is_offline || is_unusual) && !has_mail {
        form.fail("alarmMail", "isEmail", "alarmMail must be an email");
        if !form.get("alarmMail").is_some_and(Value::is_string) {
            form.fail("alarmMail", "isString", "alarmMail must be a string");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_body(gateway: Value, stored: Option<&GatewayFields>) -> Result<GatewayFields, Value> {
        let body = json!({"gateway": gateway});
        let mut form = Form::of(&body);
        let input = read(&mut form, stored);
        match form.finish() {
            Ok(()) => Ok(input.unwrap().fields),
            Err(error) => Err(error.body()["message"][0]["children"].clone()),
        }
    }

    fn good() -> Value {
        json!({"gatewayId": "0016C001F1500001", "name": "gw-1", "location": {"latitude": 56.1, "longitude": 10.2, "altitude": 30}})
    }

    fn with(more: Value) -> Value {
        let mut body = good();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    #[test]
    fn what_is_wrong_is_said_in_the_references_words() {
        let of = |more: Value| {
            let errors = read_body(with(more), None).unwrap_err();
            (errors[0]["property"].clone(), errors[0]["constraints"].clone())
        };
        let text = "The name may only contain words, numbers and dashes.";
        assert_eq!(of(json!({"name": "no spaces!"})), (json!("name"), json!({"matches": text})));
        assert_eq!(of(json!({"gatewayId": "zz"})).0, "gatewayId");
        assert_eq!(
            of(json!({"tagsString": "[1]"})).1,
            json!({"IsJSONOrNull": "tagsString must be a valid JSON string"})
        );
        assert_eq!(of(json!({"placement": "MOON"})).0, "placement");
        assert_eq!(of(json!({"gatewayResponsiblePhoneNumber": "123"})).0, "gatewayResponsiblePhoneNumber");
        assert_eq!(of(json!({"gatewayResponsibleEmail": "nobody"})).0, "gatewayResponsibleEmail");
        assert_eq!(of(json!({"location": {"latitude": 91, "longitude": 0}})).0, "location");
    }

    #[test]
    fn an_alarm_needs_its_figures_and_somebody_to_tell() {
        let alarm = json!({"notifyOffline": true, "alarmMail": "a@example.org"});
        assert!(read_body(with(alarm), None).is_err(), "after how many minutes?");
        let alarm = json!({"notifyOffline": true, "offlineAlarmThresholdMinutes": 5});
        assert!(read_body(with(alarm), None).is_err(), "whom?");
        let alarm = json!({"notifyOffline": true, "offlineAlarmThresholdMinutes": 5, "alarmMail": "a@example.org"});
        assert_eq!(read_body(with(alarm), None).unwrap().offline_alarm_threshold_minutes, Some(5));
        let alarm =
            json!({"notifyUnusualPackages": true, "minimumPackages": 0, "maximumPackages": 9, "alarmMail": "a@b.dk"});
        assert_eq!(read_body(with(alarm), None).unwrap().maximum_packages, Some(9));
    }

    #[test]
    fn a_change_keeps_what_is_not_sent_and_null_clears() {
        let stored = read_body(with(json!({"description": "roof", "tagsString": "{\"a\":\"b\"}"})), None).unwrap();
        let changed = read_body(json!({"name": "gw-2"}), Some(&stored)).unwrap();
        assert_eq!((changed.name.as_str(), changed.description.as_deref()), ("gw-2", Some("roof")));
        assert_eq!((changed.tags.len(), changed.altitude), (1, Some(30.0)));
        let changed = read_body(json!({"description": null, "tagsString": "{}"}), Some(&stored)).unwrap();
        assert_eq!((changed.description, changed.tags.len()), (None, 0));
        let as_shown = json!({"location": {"latitude": 56.1, "longitude": 10.2, "altitude": "31.5"}});
        assert_eq!(read_body(as_shown, Some(&stored)).unwrap().altitude, Some(31.5));
    }
}
