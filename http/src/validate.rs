//! Validation of bodies, with errors in the form and the words of class-validator, which the web client reads.
//!
//! A [`Form`] is asked for its fields one by one; what is wrong is collected, and [`Form::finish`] answers with all of it. What only
//! Sluse asks for ([`Form::beyond`]) is said once nothing is wrong that the reference would have said. Values of fields that are
//! secret by their name are masked in what is echoed.

mod field_error;
mod rule;
mod value;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

pub use field_error::{FieldError, MASK, is_secret_name, mask};
pub use rule::Rule;
pub use value::{as_int, as_javascript_text, parse_date};

use crate::error::{ApiError, ApiResult};

/// The furthest instant from 1970 that a JavaScript Date holds.
pub const DATE_MS_MAX: f64 = 8.64e15;

/// A body that is being read.
#[derive(Debug)]
pub struct Form<'a> {
    whole: &'a Value,
    object: &'a Map<String, Value>,
    errors: Vec<FieldError>,
    /// Of what the reference does not ask for.
    beyond: Vec<FieldError>,
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

impl<'a> Form<'a> {
    /// Reads `body`; what is no object has no fields.
    pub fn of(body: &'a Value) -> Self {
        Self { whole: body, object: body.as_object().unwrap_or(&EMPTY), errors: Vec::new(), beyond: Vec::new() }
    }

    /// Reads what the reference would take, or would not look at: what is wrong then is said only when nothing else is.
    pub fn beyond<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let errors = std::mem::take(&mut self.errors);
        let value = read(self);
        self.beyond.extend(std::mem::replace(&mut self.errors, errors));
        value
    }

    /// A field as it was sent; `null` is as good as nothing.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|v| !v.is_null())
    }

    /// Whether JavaScript takes a field for true; `None` when it is not sent, or `null`.
    pub fn is_truthy(&self, name: &str) -> Option<bool> {
        Some(match self.get(name)? {
            Value::Bool(is_true) => *is_true,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    }

    /// Whether a field was sent at all, `null` included.
    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Notes that `name` does not meet a constraint.
    pub fn fail(&mut self, name: &str, key: &str, text: impl Into<String>) {
        if let Some(known) = self.errors.iter_mut().find(|e| e.property == name) {
            known.constraints.insert(key.to_owned(), Value::String(text.into()));
            return;
        }
        let value = self.object.get(name).cloned();
        self.errors.push(FieldError::new(name, value).failing(key, text).about(self.target()));
    }

    /// What the fields are of: an object, or the list that was sent in its place.
    fn target(&self) -> Value {
        if self.whole.is_array() { self.whole.clone() } else { Value::Object(self.object.clone()) }
    }

    /// Notes errors inside `name`.
    pub fn fail_inside(&mut self, name: &str, children: Vec<FieldError>) {
        if children.is_empty() {
            return;
        }
        if let Some(known) = self.errors.iter_mut().find(|e| e.property == name) {
            known.children.extend(children);
            return;
        }
        let value = self.object.get(name).cloned();
        self.errors.push(FieldError::new(name, value).about(self.target()).with_children(children));
    }

    /// Notes what is wrong in the form of the object under `name`.
    pub fn close_inside(&mut self, name: &str, inner: Form<'_>) {
        self.fail_inside(name, inner.errors);
        self.beyond(|form| form.fail_inside(name, inner.beyond));
    }

    /// A text that must be there.
    pub fn text(&mut self, name: &str, rules: &[Rule]) -> String {
        let value = self.object.get(name);
        if !value.is_some_and(Value::is_string) {
            self.fail(name, "isString", format!("{name} must be a string"));
        }
        for rule in rules {
            if let Some((key, message)) = rule.check(name, value) {
                self.fail(name, key, message);
            }
        }
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// A text that may be missing or `null`.
    pub fn text_opt(&mut self, name: &str, rules: &[Rule]) -> Option<String> {
        self.get(name)?;
        Some(self.text(name, rules))
    }

    /// A text whose type is not checked by `isString` but by its rules alone.
    pub fn checked_text(&mut self, name: &str, rules: &[Rule]) -> String {
        let value = self.object.get(name);
        for rule in rules {
            if let Some((key, message)) = rule.check(name, value) {
                self.fail(name, key, message);
            }
        }
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// A number that must be there.
    pub fn number(&mut self, name: &str, min: Option<f64>, max: Option<f64>) -> f64 {
        let number = self.object.get(name).and_then(Value::as_f64);
        if number.is_none() {
            self.fail(name, "isNumber", format!("{name} must be a number conforming to the specified constraints"));
        }
        self.check_range(name, number, min, max);
        number.unwrap_or_default()
    }

    /// A number that may be missing.
    pub fn number_opt(&mut self, name: &str, min: Option<f64>, max: Option<f64>) -> Option<f64> {
        self.get(name)?;
        Some(self.number(name, min, max))
    }

    /// An integer that must be there.
    pub fn int(&mut self, name: &str, min: Option<i64>, max: Option<i64>) -> i64 {
        let number = self.object.get(name).and_then(as_int);
        if number.is_none() {
            self.fail(name, "isInt", format!("{name} must be an integer number"));
        }
        // A fraction is no integer, and within the range all the same.
        let size = self.object.get(name).and_then(Value::as_f64).or_else(|| number.map(|n| n as f64));
        self.check_range(name, size, min.map(|n| n as f64), max.map(|n| n as f64));
        number.unwrap_or_default()
    }

    /// An integer that may be missing.
    pub fn int_opt(&mut self, name: &str, min: Option<i64>, max: Option<i64>) -> Option<i64> {
        self.get(name)?;
        Some(self.int(name, min, max))
    }

    /// An integer that must be there, with a limit of our own: the reference names none, so what is missing is not said to be above it.
    pub fn int_capped(&mut self, name: &str, min: Option<i64>, cap: i64) -> i64 {
        let number = self.int(name, min, None);
        if number > cap {
            self.beyond(|form| form.fail(name, "max", format!("{name} must not be greater than {cap}")));
        }
        number
    }

    /// The id of a row: a number in the reference's words, an integer in fact.
    pub fn id(&mut self, name: &str, min: Option<i64>) -> i64 {
        let value = self.object.get(name);
        let number = value.and_then(as_int);
        if number.is_none() {
            self.fail(name, "isNumber", format!("{name} must be a number conforming to the specified constraints"));
        }
        let size = number.map(|n| n as f64).or_else(|| value.and_then(Value::as_f64));
        self.check_range(name, size, min.map(|n| n as f64), None);
        number.unwrap_or_default()
    }

    /// An id that may be missing.
    pub fn id_opt(&mut self, name: &str) -> Option<i64> {
        self.get(name)?;
        Some(self.id(name, None))
    }

    fn check_range(&mut self, name: &str, number: Option<f64>, min: Option<f64>, max: Option<f64>) {
        if let Some(min) = min
            && !number.is_some_and(|n| n >= min)
        {
            self.fail(name, "min", format!("{name} must not be less than {min}"));
        }
        if let Some(max) = max
            && !number.is_some_and(|n| n <= max)
        {
            self.fail(name, "max", format!("{name} must not be greater than {max}"));
        }
    }

    /// A boolean that may be missing.
    pub fn boolean_opt(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        if !value.is_boolean() {
            self.fail(name, "isBoolean", format!("{name} must be a boolean value"));
        }
        value.as_bool()
    }

    /// One of a set of texts.
    pub fn one_of(&mut self, name: &str, values: &[&str]) -> String {
        let text = self.object.get(name).and_then(Value::as_str);
        if !text.is_some_and(|t| values.contains(&t)) {
            self.fail(name, "isEnum", format!("{name} must be one of the following values: {}", values.join(", ")));
        }
        text.unwrap_or_default().to_owned()
    }

    /// One of a set of texts, or missing.
    pub fn one_of_opt(&mut self, name: &str, values: &[&str]) -> Option<String> {
        self.get(name)?;
        Some(self.one_of(name, values))
    }

    /// Distinct texts of a set, or missing.
    pub fn subset_opt(&mut self, name: &str, values: &[&str]) -> Option<Vec<String>> {
        let value = self.get(name)?;
        let items = value.as_array();
        let texts: Vec<String> = items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if items.is_none_or(|items| items.len() != texts.len() || texts.iter().any(|t| !values.contains(&t.as_str()))) {
            let list = values.join(", ");
            self.fail(name, "isEnum", format!("each value in {name} must be one of the following values: {list}"));
        }
        if items.is_none() {
            self.fail(name, "isArray", format!("{name} must be an array"));
        }
        let mut seen = texts.clone();
        seen.sort();
        seen.dedup();
        if items.is_none() || seen.len() != texts.len() {
            self.fail(name, "arrayUnique", format!("All {name}'s elements must be unique"));
        }
        Some(texts)
    }

    /// Ids that may be missing; `null` among them is passed over, doubles count once.
    pub fn ids_opt(&mut self, name: &str) -> Option<Vec<i64>> {
        let value = self.get(name)?;
        let Some(items) = value.as_array() else {
            self.fail(name, "isArray", format!("{name} must be an array"));
            return None;
        };
        let mut ids = Vec::with_capacity(items.len());
        for item in items.iter().filter(|item| !item.is_null()) {
            match as_int(item) {
                Some(id) => ids.push(id),
                None => {
                    let text = format!("each value in {name} must be a number conforming to the specified constraints");
                    self.fail(name, "isNumber", text);
                }
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Some(ids)
    }

    /// Ids that must be there, one or more and each once; `null` among them is passed over.
    pub fn distinct_ids(&mut self, name: &str) -> Vec<i64> {
        let sent = self.get(name).and_then(Value::as_array);
        let num_sent = sent.map_or(0, |items| items.iter().filter(|item| !item.is_null()).count());
        if num_sent == 0 {
            self.fail(name, "arrayNotEmpty", format!("{name} should not be empty"));
        }
        if sent.is_none() {
            self.fail(name, "arrayUnique", format!("All {name}'s elements must be unique"));
            self.fail(name, "isArray", format!("{name} must be an array"));
            return Vec::new();
        }
        let ids = self.ids_opt(name).unwrap_or_default();
        let has_others = sent.into_iter().flatten().any(|item| !item.is_null() && as_int(item).is_none());
        if ids.len() < num_sent && !has_others {
            self.fail(name, "arrayUnique", format!("All {name}'s elements must be unique"));
        }
        ids
    }

    /// Ids that must be there, possibly none.
    pub fn ids(&mut self, name: &str) -> Vec<i64> {
        if self.get(name).is_none() {
            self.fail(name, "isArray", format!("{name} must be an array"));
        }
        self.ids_opt(name).unwrap_or_default()
    }

    /// An instant or a date that may be missing or `""`.
    pub fn date_opt(&mut self, name: &str) -> Option<DateTime<Utc>> {
        if self.get(name)? == "" { None } else { self.instant_opt(name) }
    }

    /// An instant or a date that may be missing.
    pub fn instant_opt(&mut self, name: &str) -> Option<DateTime<Utc>> {
        let value = self.get(name)?;
        let date = match value {
            Value::String(text) => parse_date(text),
            // As JavaScript's Date takes them: milliseconds, and truth as one of them.
            Value::Bool(is_true) => DateTime::from_timestamp_millis(i64::from(*is_true)),
            _ => value
                .as_f64()
                .filter(|ms| ms.abs() <= DATE_MS_MAX)
                .and_then(|ms| DateTime::from_timestamp_millis(ms as i64)),
        };
        if date.is_none() {
            self.fail(name, "isDate", format!("{name} must be a Date instance"));
        }
        date
    }

    /// Answers with everything that is wrong.
    ///
    /// # Errors
    /// 400 with the list.
    pub fn finish(self) -> ApiResult<()> {
        let wrong = self.into_errors();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(ApiError::bad_request(wrong.into_iter().map(FieldError::into_json).collect::<Vec<_>>()))
    }

    /// What is wrong.
    pub fn into_errors(self) -> Vec<FieldError> {
        if self.errors.is_empty() { self.beyond } else { self.errors }
    }

    /// What is wrong to the reference, and what is wrong to Sluse alone.
    pub fn into_parts(self) -> (Vec<FieldError>, Vec<FieldError>) {
        (self.errors, self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(form: Form<'_>) -> Value {
        form.finish().unwrap_err().body()["message"].clone()
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_in_the_references_words() {
        let body = json!({"name": 7, "type": "PIGEON", "longitude": 200});
        let mut form = Form::of(&body);
        form.text("name", &[Rule::Min(1), Rule::Max(50)]);
        form.one_of("type", &["LORAWAN", "SIGFOX"]);
        form.number_opt("longitude", Some(-180.0), Some(180.0));
        form.id("applicationId", Some(1));
        let found = items(form);
        assert_eq!(
            found[0]["constraints"],
            json!({
                "isString": "name must be a string",
                "minLength": "name must be longer than or equal to 1 characters",
                "maxLength": "name must be shorter than or equal to 50 characters",
            })
        );
        assert_eq!(found[1]["constraints"]["isEnum"], "type must be one of the following values: LORAWAN, SIGFOX");
        assert_eq!(found[2]["constraints"], json!({"max": "longitude must not be greater than 180"}));
        assert_eq!(found[2]["value"], 200);
        assert_eq!(found[3]["constraints"]["min"], "applicationId must not be less than 1");
        assert!(found[3].get("value").is_none());
        assert_eq!(found[0]["target"], body);
    }

    #[test]
    fn what_only_sluse_asks_for_is_said_when_nothing_else_is_wrong() {
        let problems = |body: Value| {
            let mut form = Form::of(&body);
            form.text("name", &[]);
            form.beyond(|form| form.boolean_opt("active"));
            let nested = json!({"a": 7});
            let mut inner = Form::of(&nested);
            inner.beyond(|form| form.boolean_opt("a"));
            form.close_inside("more", inner);
            items(form).as_array().unwrap().iter().map(|i| i["property"].clone()).collect::<Value>()
        };
        assert_eq!(problems(json!({"name": 7, "active": 7})), json!(["name"]));
        assert_eq!(problems(json!({"name": "x", "active": 7})), json!(["active", "more"]));
    }

    #[test]
    fn a_list_in_place_of_an_object_is_what_the_error_is_about() {
        let body = json!([1]);
        let mut form = Form::of(&body);
        form.text("name", &[]);
        assert_eq!(items(form)[0]["target"], body);
    }

    #[test]
    fn secrets_are_not_echoed() {
        let body = json!({"password": "abc", "mqttSettings": {"mqttpassword": "hunter2"}, "name": ""});
        let mut form = Form::of(&body);
        form.text("name", &[Rule::Min(1)]);
        form.text("password", &[Rule::Length(6, 50)]);
        let found = items(form).to_string();
        assert!(!found.contains("abc") && !found.contains("hunter2"), "{found}");
        let body = json!({"password": 123_456, "token": null, "secret": "", "apiKey": [], "sessionKey": ["s"]});
        assert_eq!(
            mask(body),
            json!({"password": MASK, "token": null, "secret": "", "apiKey": [], "sessionKey": MASK}),
            "what holds nothing is shown"
        );
    }

    #[test]
    fn null_counts_as_absent_where_a_field_may_be_missing() {
        let body = json!({"description": null, "permissionIds": [3, null, 1, 3]});
        let mut form = Form::of(&body);
        assert_eq!(form.text_opt("description", &[Rule::Max(3)]), None);
        assert_eq!(form.ids_opt("permissionIds"), Some(vec![1, 3]));
        assert_eq!(form.date_opt("startDate"), None);
        form.finish().unwrap();
    }

    #[test]
    fn groups_are_given_once_each_and_one_at_least() {
        let problems = |ids: Value| {
            let body = json!({ "permissionIds": ids });
            let mut form = Form::of(&body);
            let ids = form.distinct_ids("permissionIds");
            match form.finish() {
                Ok(()) => Ok(ids),
                Err(error) => Err(error.body()["message"][0]["constraints"].clone()),
            }
        };
        assert_eq!(problems(json!([2, null, 1])), Ok(vec![1, 2]));
        assert_eq!(problems(json!([])), Err(json!({"arrayNotEmpty": "permissionIds should not be empty"})));
        assert_eq!(problems(json!([null])), Err(json!({"arrayNotEmpty": "permissionIds should not be empty"})));
        assert_eq!(problems(json!([3, 3])), Err(json!({"arrayUnique": "All permissionIds's elements must be unique"})));
        assert!(problems(json!("3")).is_err_and(|e| e.get("arrayUnique").is_some()));
        assert!(problems(json!([1.5])).is_err_and(|e| e.get("isNumber").is_some()));
    }

    #[test]
    fn what_is_nothing_is_too_short_and_what_is_no_text_has_no_length() {
        let problem = |value: Value| {
            let body = json!({ "name": value });
            let mut form = Form::of(&body);
            form.text("name", &[Rule::Length(1, 50)]);
            items(form)[0]["constraints"]["isLength"].clone()
        };
        for nothing in [json!(null), json!(false), json!(0), json!([]), json!("")] {
            assert_eq!(problem(nothing.clone()), "name must be longer than or equal to 1 characters", "{nothing}");
        }
        let both = "name must be longer than or equal to 1 and shorter than or equal to 50 characters";
        for other in [json!(7), json!(true), json!({}), json!(["a"])] {
            assert_eq!(problem(other.clone()), both, "{other}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let body = json!({"name": "blåbærgrød🫐"});
        let mut form = Form::of(&body);
        form.text("name", &[Rule::Length(11, 11)]);
        form.finish().unwrap();
    }

    #[test]
    fn dates_are_instants_or_days_and_garbage_is_refused() {
        let body =
            json!({"a": "2026-01-01T00:00:00.000Z", "b": "2026-01-01", "c": "soon", "d": "", "e": 1.5, "f": true});
        let mut form = Form::of(&body);
        assert_eq!(form.date_opt("a"), form.date_opt("b"));
        assert_eq!(form.date_opt("d"), None);
        assert_eq!(form.date_opt("e").map(|d| d.timestamp_millis()), Some(1));
        assert_eq!(form.date_opt("e"), form.date_opt("f"));
        form.date_opt("c");
        assert_eq!(items(form)[0]["property"], "c");
    }
}
