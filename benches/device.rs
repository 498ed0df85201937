//! What one uplink costs in the device's machine: admission, figures, state, deliveries. No actor, no log, no decoder.

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use sluse_actors::device::machine::Admission;
use sluse_actors::device::outputs::deliveries;
use sluse_actors::device::{DeviceMachine, WindowPolicy};
use sluse_benches::{uplink, uplink_record};
use sluse_schema::device::{DeviceConfig, DeviceState, Route};
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId, TargetId};
use sluse_schema::record::{LogIdentity, Offset, Record};
use sluse_schema::uplink::UplinkMeta;

fn device(c: &mut Criterion) {
    let log = Arc::new(LogIdentity { store: "memory:bench".into(), incarnation: 0 });
    let mut machine = DeviceMachine::new(DeviceState::new(DeviceId(1)), Arc::clone(&log), WindowPolicy::Last(20));
    let uplinks: Vec<_> = (0..10_000).map(|offset| uplink(1, offset)).collect();
    let mut at = 0;
    c.bench_function("device/admit and apply a 1.3 kB event", |b| {
        b.iter(|| {
            if at == uplinks.len() {
                at = 0;
                machine = DeviceMachine::new(DeviceState::new(DeviceId(1)), Arc::clone(&log), WindowPolicy::Last(20));
            }
            let admission = machine.admit(&uplinks[at]);
            assert_eq!(admission, Admission::New);
            machine.apply(&uplinks[at], admission, 0);
            at += 1;
        });
    });
    c.bench_function("device/state taken for storing", |b| b.iter(|| machine.take_state()));

    let config = DeviceConfig {
        device: DeviceId(1),
        application: ApplicationId(1),
        organization: OrganizationId(1),
        name: "room 7".into(),
        metadata: "{}".into(),
        routes: [Route { target: TargetId(1), decoder: None }].into(),
    };
    c.bench_function("device/one delivery record", |b| b.iter(|| deliveries(&config, &uplinks[0], 7, &[], &[], 8)));

    let new = uplink_record(1, 1);
    let record =
        Record { offset: Offset(1), key: 1, timestamp_ms: 0, headers: new.headers.clone(), value: new.value.clone() };
    c.bench_function("device/headers of a record read", |b| b.iter(|| UplinkMeta::of_record(&record)));
}

criterion_group!(benches, device);
criterion_main!(benches);
