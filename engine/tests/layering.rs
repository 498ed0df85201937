//! Who may import whom, as the design draws it. A forbidden edge fails here, whatever the compiler thinks of it.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each package may depend on within the workspace, tests and build scripts aside.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    [
        ("sluse-schema", [].as_slice()),
        ("sluse-actors", &["sluse-schema"]),
        ("sluse-http", &["sluse-schema"]),
        ("sluse-engine", &["sluse-schema", "sluse-actors", "sluse-http"]),
        ("sluse-benches", &["sluse-schema", "sluse-actors", "sluse-engine"]),
        ("sluse-loadtest", &["sluse-schema"]),
    ]
    .into_iter()
    .map(|(package, may)| (package, may.iter().copied().collect()))
    .collect()
}

/// What the inner crates must stay free of: adapters' libraries belong to the engine.
const ENGINE_ONLY: [&str; 8] =
    ["tokio-postgres", "deadpool-postgres", "fjall", "rumqttc", "reqwest", "rquickjs", "rdkafka", "redis"];

#[test]
fn packages_import_only_what_the_design_allows() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata runs");
    let allowed = allowed();
    let ours: BTreeSet<&str> = allowed.keys().copied().collect();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the design: say what it may import"));
        seen.insert(name);
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let imported = dependency.name.as_str();
            assert!(!ours.contains(imported) || may.contains(imported), "{name} must not import {imported}");
            let is_inner = ["sluse-schema", "sluse-actors", "sluse-http"].contains(&name);
            assert!(
                !is_inner || !ENGINE_ONLY.contains(&imported),
                "{name} must not import {imported}: it is the engine's"
            );
        }
    }
    assert_eq!(seen, ours, "the workspace's packages are those of the design");
}
