//! What of Sigfox's REST API (version 2) is called, over a few devices, device types and one login.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::{Got, Server};

pub const USERNAME: &str = "5e74c318aa8aec41f9cc6b8d";
pub const PASSWORD: &str = "sigfox-s3cret";
/// With this one everything is one request too many.
pub const BUSY_USERNAME: &str = "busy";
pub const GROUP: &str = "5e74c318aa8aec41f9cc6b00";
pub const DEVICE_TYPE: &str = "5e74c318aa8aec41f9cc6b01";

#[derive(Debug)]
struct World {
    devices: Vec<Value>,
    device_types: Vec<Value>,
    callbacks: Vec<Value>,
    next: u32,
}

/// Starts it.
pub fn start() -> Server {
    let device = |id: &str| {
        json!({"id": id, "name": format!("at sigfox {id}"), "pac": "04FB9B9DD7F45D4E", "prototype": false, "automaticRenewal": true,
               "deviceType": {"id": DEVICE_TYPE, "name": "Bins"}, "group": {"id": GROUP, "name": "City"},
               "productCertificate": {"key": "P_0006_321A_01"}})
    };
    let world = Mutex::new(World {
        devices: ["1D1D1D", "2E2E2E", "3F3F3F", "4A4A4A"].map(device).to_vec(),
        device_types: vec![json!({"id": DEVICE_TYPE, "name": "Bins", "keepAlive": 0})],
        callbacks: Vec::new(),
        next: 0x10,
    });
    Server::start(move |got| {
        let (status, body) = respond(got, &mut world.lock().unwrap());
        (status, if body.is_null() { String::new() } else { body.to_string() })
    })
}

fn respond(got: &Got, world: &mut World) -> (u16, Value) {
    let basic = |user: &str| Some(format!("Basic {}", STANDARD.encode(format!("{user}:{PASSWORD}"))));
    if got.authorization == basic(BUSY_USERNAME) {
        return (429, json!({"message": "too many requests"}));
    }
    if got.authorization != basic(USERNAME) {
        return (401, json!({"message": "unauthorized"}));
    }
    let path = got.path.split('?').next().unwrap();
    let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
    let page = |rows: &[Value]| (200, json!({"data": rows, "paging": {}}));
    match (got.method.as_str(), parts.as_slice()) {
        ("GET", ["api-users"]) => page(&[json!({"id": USERNAME, "group": {"id": GROUP}})]),
        ("GET", ["groups"]) => page(&[json!({"id": GROUP, "name": "City", "type": 2})]),
        ("GET", ["contract-infos"]) => page(&[json!({"id": "contract-1", "name": "City contract"})]),
        ("GET", ["devices"]) => page(&world.devices),
        ("GET", ["devices", id]) => found(world.devices.iter().find(|device| device["id"] == *id)),
        ("POST", ["devices"]) => create_device(&got.json(), world),
        ("POST", ["devices", "bulk", "transfer"]) => {
            let (body, mut num) = (got.json(), 0);
            for device in &mut world.devices {
                if body["data"][0]["id"] == device["id"] {
                    device["deviceType"] = json!({"id": body["deviceTypeId"], "name": "Moved"});
                    num += 1;
                }
            }
            (200, json!({"total": num}))
        }
        ("PUT", ["devices", id]) => {
            let changes = got.json();
            let device = world.devices.iter_mut().find(|device| device["id"] == *id);
            device.map_or((404, json!({})), |device| {
                device["name"] = changes["name"].clone();
                (204, Value::Null)
            })
        }
        ("GET", ["device-types"]) => page(&world.device_types),
        ("GET", ["device-types", id]) => found(world.device_types.iter().find(|kind| kind["id"] == *id)),
        ("POST", ["device-types"]) => {
            world.next += 1;
            let (mut kind, id) = (got.json(), format!("5e74c318aa8aec41f9cc6b{:02x}", world.next));
            if kind["name"] == "refused" {
                return (
                    400,
                    json!({"message": "no", "errors": [{"type": "validation", "field": "name", "message": "refused"}]}),
                );
            }
            kind["id"] = json!(id);
            world.device_types.push(kind);
            (201, json!({"id": id}))
        }
        ("PUT", ["device-types", id]) => {
            let known = world.device_types.iter_mut().find(|kind| kind["id"] == *id);
            known.map_or((404, json!({})), |kind| {
                kind["name"] = got.json()["name"].clone();
                (204, Value::Null)
            })
        }
        ("GET", ["device-types", _, "callbacks"]) => page(&world.callbacks),
        ("POST", ["device-types", _, "callbacks"]) => {
            let mut callback = got.json();
            callback["id"] = json!("callback-1");
            world.callbacks.push(callback);
            (201, json!({"id": "callback-1"}))
        }
        ("PUT", ["device-types", _, "callbacks", ..]) => (204, Value::Null),
        _ => (404, json!({"message": "not found"})),
    }
}

fn found(row: Option<&Value>) -> (u16, Value) {
    row.map_or((404, json!({"message": "not found"})), |row| (200, row.clone()))
}

fn create_device(device: &Value, world: &mut World) -> (u16, Value) {
    if device["pac"].as_str().is_none_or(str::is_empty) {
        return (400, json!({"errors": [{"type": "validation", "field": "pac", "message": "may not be empty"}]}));
    }
    let mut device = device.clone();
    device["deviceType"] = json!({"id": device["deviceTypeId"], "name": "Bins"});
    device["group"] = json!({"id": GROUP, "name": "City"});
    world.devices.push(device.clone());
    (201, json!({"id": device["id"]}))
}
