//! What is wrong with a field, as class-validator says it, and the mask over what is secret by its name.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// What stands for a secret in everything that is shown.
pub const MASK: &str = "********";

/// One thing that is wrong, as class-validator says it.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub(super) property: String,
    value: Option<Value>,
    target: Value,
    pub(super) constraints: Map<String, Value>,
    pub(super) children: Vec<FieldError>,
}

impl FieldError {
    /// Nothing wrong yet.
    pub fn new(property: &str, value: Option<Value>) -> Self {
        Self {
            property: property.to_owned(),
            value,
            target: Value::Object(Map::new()),
            constraints: Map::new(),
            children: Vec::new(),
        }
    }

    /// Adds a constraint that is not met.
    pub fn failing(mut self, key: &str, text: impl Into<String>) -> Self {
        self.constraints.insert(key.to_owned(), Value::String(text.into()));
        self
    }

    /// What the property is of.
    pub fn about(mut self, target: Value) -> Self {
        self.target = target;
        self
    }

    /// Errors further in.
    pub fn with_children(mut self, children: Vec<FieldError>) -> Self {
        self.children = children;
        self
    }

    /// The error as the answer's only one.
    pub fn into_api_error(self) -> ApiError {
        ApiError::bad_request(vec![self.into_json()])
    }

    pub(crate) fn into_json(self) -> Value {
        let is_secret = is_secret_name(&self.property);
        let mut item = json!({"target": mask(self.target), "property": self.property});
        if let Some(value) = self.value {
            item["value"] = if is_secret { masked(value) } else { mask(value) };
        }
        item["children"] = self.children.into_iter().map(Self::into_json).collect();
        if !self.constraints.is_empty() {
            item["constraints"] = Value::Object(self.constraints);
        }
        item
    }
}

/// Whether a field of this name is never shown.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "authorization", "certificatekey", "applicationkey", "sessionkey", "apikey", "token"]
        .iter()
        .any(|part| name.contains(part))
        && !name.ends_with("endpoint")
        // Sigfox's Porting Authorization Code: whoever has it owns the device.
        || name == "pac"
}

/// What stands for the value of a secret: what holds nothing stands for itself.
fn masked(value: Value) -> Value {
    let holds_nothing = match &value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    if holds_nothing { value } else { json!(MASK) }
}

/// A value with every secret in it masked.
pub fn mask(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let shown = if is_secret_name(&name) { masked(value) } else { mask(value) };
                (name, shown)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(mask).collect(),
        other => other,
    }
}
