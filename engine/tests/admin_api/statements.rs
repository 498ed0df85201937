//! What a request costs the database. That no route's number of statements grows with the number of rows is asserted, over every GET
//! of the OpenAPI document; what the hot ones cost at 1 000 and at 1 000 000 devices is printed by
//! `cargo test --release -p sluse-engine --test admin_api -- --ignored --nocapture what_hot_routes_cost` (`COST_DEVICES=1000,1000000`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::counting_proxy::{self, Passed};
use crate::fixture::{Api, Behind};
use crate::network_server::{FakeChirpstack, TENANT, api};
use crate::rows::{Size, load};
use crate::server::Server;
use crate::sigfox_server;

const NONE: Size = Size { applications: 0, devices: 0, others: 0, organizations: 0, dealt_applications: 0 };
const FEW: Size = Size { applications: 4, devices: 40, others: 10, organizations: 2, dealt_applications: 2 };
const MORE: Size = Size { applications: 40, devices: 400, others: 100, organizations: 2, dealt_applications: 2 };

/// They answer what is no list and no row: nothing of them grows.
const NO_ROWS: [&str; 12] = [
    "/api/v1",
    "/api/v1/healthcheck",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/auth/kombit/login",
    "/api/v1/auth/kombit/logout",
    "/api/v1/auth/kombit/logout/callback",
    "/api/v1/auth/kombit/metadata",
    "/api/v1/auth/oidc/login",
    "/api/v1/auth/oidc/callback",
    "/api/v1/chirpstack/device-profiles/adr-algorithms",
];

/// What only a multicast group with devices in ChirpStack has; there are none here.
const NOT_HERE: [&str; 1] = ["/api/v1/multicast/{id}/downlink-multicast"];
const KEY: (&str, &str) = ("x-api-key", "00000001-0000-4000-8000-000000000000");

struct Rig {
    api: Api,
    /// A node whose database is behind the proxy.
    node: String,
    passed: Arc<Passed>,
    client: tokio_postgres::Client,
    chirpstack: FakeChirpstack,
    _sigfox: Server,
    _proxy: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let sigfox = sigfox_server::start();
        let sigfox_url = format!("{}/v2", sigfox.url());
        let (behind, chirpstack) = Behind { sigfox_url, ..Behind::default() }.with_network().await;
        let api = Api::start_with(behind).await;
        let (url, passed, proxy) = counting_proxy::start(&api.url);
        let node = api.node_over(url).await;
        let (client, connection) = tokio_postgres::connect(api.url.reveal(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { api, node, passed, client, chirpstack, _sigfox: sigfox, _proxy: proxy }
    }

    async fn load(&self, from: &Size, to: &Size) {
        load(&self.client, from, to).await;
        let mut world = self.chirpstack.world();
        for i in from.others + 1..=to.others {
            let id = format!("{i:016x}");
            let gateway = api::Gateway { gateway_id: id.clone(), tenant_id: TENANT.into(), ..Default::default() };
            world.gateways.insert(id, gateway);
            let id = format!("11111111-0000-4000-8000-{i:012x}");
            let profile = api::DeviceProfile { id: id.clone(), name: format!("Profile {i}"), ..Default::default() };
            world.profiles.insert(id, profile);
        }
    }

    /// What an answer cost: the least of some, since the node does other things meanwhile.
    async fn cost(&self, path: &str, credential: (&str, &str), num_calls: usize) -> Cost {
        let mut costs = Vec::new();
        for _ in 0..num_calls {
            let before = self.passed.until_now();
            let begun = Instant::now();
            let request = self.api.client.get(format!("{}{path}", self.node.trim_end_matches("/api/v1")));
            let answer =
                request.header(credential.0, credential.1).timeout(Duration::from_secs(120)).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap();
            let elapsed_us = begun.elapsed().as_micros() as u64;
            let after = self.passed.until_now();
            costs.push(Cost {
                status,
                num_bytes: body.len(),
                num_statements: after.0 - before.0,
                database_us: after.1 - before.1,
                elapsed_us,
            });
        }
        costs.sort_by_key(|cost| (cost.num_statements, cost.elapsed_us));
        let least = costs[0].num_statements;
        // Of those that did nothing else: the one in the middle.
        let alike: Vec<Cost> = costs.into_iter().filter(|cost| cost.num_statements == least).collect();
        alike[alike.len() / 2]
    }
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    status: u16,
    num_bytes: usize,
    num_statements: u64,
    /// How long PostgreSQL was at it.
    database_us: u64,
    elapsed_us: u64,
}

/// Where an operation of the document is to be asked.
fn address(path: &str, operation: &Value) -> String {
    let part = |part: &str| match part {
        "{gateway}" => "0000000000000001".to_owned(),
        "{profile}" => "11111111-0000-4000-8000-000000000002".to_owned(),
        "{share}" => "5".to_owned(),
        // A device of ChirpStack's, or of HTTP; the first user and group of the load.
        "{id}" if path.contains("ownlink") && path.contains("iot-device") => "2".to_owned(),
        "{id}" if ["/api/v1/user/{id}", "/api/v1/kombitCreation/{id}"].contains(&path) => "2".to_owned(),
        "{id}" if path.contains("/permission/") => "2".to_owned(),
        "{id}" if path.contains("/sigfox-device-type/") => sigfox_server::DEVICE_TYPE.to_owned(),
        part if part.starts_with('{') => "1".to_owned(),
        part => part.to_owned(),
    };
    let place: Vec<String> = path.split('/').map(part).collect();
    let query: Vec<&str> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| p["in"] == "query")
        .filter_map(|p| match p["name"].as_str().unwrap() {
            "limit" => Some("limit=500"),
            "offset" => Some("offset=0"),
            "organizationId" => Some("organizationId=1"),
            "applicationId" => Some("applicationId=1"),
            "groupId" => Some("groupId=1"),
            "timeInterval" => Some("timeInterval=DAY"),
            "extendedInfo" => Some("extendedInfo=true"),
            "q" => Some("q=e"),
            _ => None,
        })
        .collect();
    format!("{}?{}", place.join("/"), query.join("&"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_routes_number_of_statements_grows_with_the_number_of_rows() {
    let rig = Rig::start().await;
    let (_, document) = rig.api.get("/docs-json").await;
    let routes: Vec<(String, Value)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(path, item)| Some((path.clone(), item.get("get")?.clone())))
        // A stream does not end by itself, and asks for nothing while it flows.
        .filter(|(path, _)| !path.ends_with("/live") && !NO_ROWS.contains(&path.as_str()))
        .collect();
    let authorization = format!("Bearer {}", rig.api.admin);
    let mut costs: Vec<BTreeMap<&str, Cost>> = Vec::new();
    for (from, to) in [(NONE, FEW), (FEW, MORE)] {
        rig.load(&from, &to).await;
        let organization = costs.len() + 1;
        let group = json!({"organizationId": organization, "username": sigfox_server::USERNAME, "password": sigfox_server::PASSWORD});
        rig.api.made("/sigfox-group", group).await;
        let mut of_size = BTreeMap::new();
        for (path, operation) in &routes {
            let address = address(path, operation);
            let by_key = path.contains("/api-key-info/");
            let credential = if by_key { KEY } else { ("authorization", authorization.as_str()) };
            rig.cost(&address, credential, 1).await;
            let cost = rig.cost(&address, credential, 3).await;
            of_size.insert(path.as_str(), cost);
        }
        costs.push(of_size);
    }
    let [few, more] = costs.as_slice() else { panic!("two sizes") };
    let (mut grown, mut failed, mut same_length) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (path, operation) in &routes {
        let (before, after) = (few[path.as_str()], more[path.as_str()]);
        if after.num_statements > before.num_statements {
            grown.push(format!("{path}: {} then {}", before.num_statements, after.num_statements));
        }
        if after.status != 200 && !NOT_HERE.contains(&path.as_str()) {
            failed.insert(path.as_str());
        }
        let is_list = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "limit"));
        if is_list && after.num_bytes <= before.num_bytes {
            same_length.push(path);
        }
    }
    assert!(grown.is_empty(), "more statements for more rows: {grown:#?}");
    assert_eq!(failed, BTreeSet::new(), "they answered nothing, so nothing was counted");
    assert!(same_length.is_empty(), "lists that did not grow, so that nothing was tried: {same_length:?}");
}

/// Of more hits than are counted, the newest come first all the same, whoever asks and whichever index serves him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_finds_more_than_it_counts_has_its_pages_in_order() {
    let rig = Rig::start().await;
    let size = Size { applications: 10, devices: 6000, others: 10, organizations: 1, dealt_applications: 10 };
    rig.load(&NONE, &size).await;
    let user =
        json!({"name": "T", "email": "t@example.org", "password": "Sesame-11", "active": true, "permissionIds": [2]});
    rig.api.made("/user", user).await;
    let tenant = rig.api.log_in("t@example.org", "Sesame-11").await;
    // Every fifth device is a sensor, the first ones are the newest; some of them have a "z".
    for (text, offset, num_all, ids) in [
        ("Se", 0, 1000, vec![1, 6, 11]),
        ("NSOR", 0, 1000, vec![1, 6, 11]),
        ("se", 1100, 1000, vec![5501, 5506, 5511]),
        ("sensor", 1198, 1000, vec![5991, 5996]),
        ("Z", 0, 54, vec![100, 200, 300]),
        ("1 Z", 0, 0, vec![]),
        ("r 60", 0, 6, vec![60, 600, 601]),
    ] {
        for token in [&rig.api.admin, &tenant] {
            let path = format!("/search?q={}&limit=3&offset={offset}", text.replace(' ', "%20"));
            let (status, answer) = rig.api.call("GET", &path, Some(token), None).await;
            let found: Vec<i64> =
                answer["data"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
            assert_eq!((status, answer["count"].as_i64().unwrap(), found), (200, num_all, ids.clone()), "{text}");
        }
    }
}

/// Prints a table in Markdown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: minutes, and some GB of disk"]
async fn what_hot_routes_cost() {
    let told = std::env::var("COST_DEVICES").unwrap_or_else(|_| "1000,1000000".to_owned());
    let mut table: BTreeMap<usize, (String, Vec<Cost>)> = BTreeMap::new();
    for devices in told.split(',').map(|number| number.parse::<u32>().unwrap()) {
        // A thousand devices in an application, ten applications in an organisation, a tenth of everything else.
        let applications = (devices / 1000).max(100);
        let to = Size {
            applications,
            devices,
            others: (devices / 100).max(100),
            organizations: (applications / 10).max(10),
            dealt_applications: (devices / 1000).max(10),
        };
        let rig = Rig::start().await;
        let begun = Instant::now();
        rig.load(&NONE, &to).await;
        eprintln!("{devices} devices were loaded in {} s", begun.elapsed().as_secs());
        let admin = format!("Bearer {}", rig.api.admin);
        let tenant = {
            let email = format!("tenant-{devices}@example.org");
            let user =
                json!({"name": "T", "email": email, "password": "Sesame-11", "active": true, "permissionIds": [2]});
            rig.api.made("/user", user).await;
            format!("Bearer {}", rig.api.log_in(&email, "Sesame-11").await)
        };
        let (admin, tenant) = (("authorization", admin.as_str()), ("authorization", tenant.as_str()));
        let forget = "INSERT INTO change_event (entity, entity_id) VALUES ('user', 1)";
        for (place, (what, path, who)) in [
            ("caller by token, anew", "auth/me", tenant),
            ("caller by token, remembered: `GET /auth/me`", "auth/me", tenant),
            ("caller by API key, anew: `GET /organization/minimal`", "organization/minimal", KEY),
            ("100 applications with their devices' state", "application?limit=100&offset=0", admin),
            ("a tenant's applications", "application?limit=100&offset=0", tenant),
            ("an application", "application/1", tenant),
            ("100 devices of an application", "application/1/iot-devices?limit=100&offset=0", tenant),
            ("an HTTP device", "iot-device/1", admin),
            ("a LoRaWAN device", "iot-device/2", admin),
            ("search, what many names hold: `e`", "search?q=e&limit=50&offset=0", admin),
            ("search, what few hold: `q`", "search?q=q&limit=50&offset=0", admin),
            ("search, what none holds: `#`", "search?q=%23&limit=50&offset=0", admin),
            ("search, two characters: `qx`", "search?q=qx&limit=50&offset=0", admin),
            ("search, a word: `parking`", "search?q=parking&limit=50&offset=0", admin),
            ("search of a tenant: `e`", "search?q=e&limit=50&offset=0", tenant),
            ("search of a tenant: `#`", "search?q=%23&limit=50&offset=0", tenant),
            ("search of a tenant: `parking`", "search?q=parking&limit=50&offset=0", tenant),
            ("100 users", "user?limit=100&offset=0", admin),
            ("100 groups", "permission?limit=100&offset=0", admin),
            ("100 API keys", "api-key?limit=100&offset=0", admin),
            ("100 gateways", "chirpstack/gateway?limit=100&offset=0", admin),
            ("100 targets", "data-target?limit=100&offset=0&applicationId=1", admin),
            ("100 connections", "iot-device-payload-decoder-data-target-connection?limit=100&offset=0", admin),
            ("100 lines of the change log", "change-log?limit=100&offset=0", admin),
        ]
        .into_iter()
        .enumerate()
        {
            let path = format!("/api/v1/{path}");
            let first = rig.cost(&path, who, 2).await;
            let num_calls = if first.elapsed_us < 1_000_000 { 15 } else { 3 };
            let cost = if what.contains("anew") {
                let mut costs = Vec::new();
                for _ in 0..10 {
                    // Every node forgets who its callers are.
                    rig.api.sql(forget).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    costs.push(rig.cost(&path, who, 1).await);
                }
                costs.sort_by_key(|cost| cost.elapsed_us);
                costs[5]
            } else {
                rig.cost(&path, who, num_calls).await
            };
            assert_eq!(cost.status, 200, "{what}");
            table.entry(place).or_insert_with(|| (what.to_owned(), Vec::new())).1.push(cost);
        }
    }
    println!("| what | statements | PostgreSQL, ms | whole, ms | kB |\n|---|---|---|---|---|");
    for (what, costs) in table.values() {
        let column = |figure: &dyn Fn(&Cost) -> String| costs.iter().map(figure).collect::<Vec<_>>().join(", ");
        println!(
            "| {what} | {} | {} | {} | {} |",
            column(&|cost| cost.num_statements.to_string()),
            column(&|cost| format!("{:.1}", cost.database_us as f64 / 1000.0)),
            column(&|cost| format!("{:.1}", cost.elapsed_us as f64 / 1000.0)),
            column(&|cost| (cost.num_bytes / 1000).to_string()),
        );
    }
}
