//! The fleet: which devices there are, which model each is, over what it sends, and when the next uplink is due.
//! Pure: time is an argument. The load is open-loop: what is due is due, whatever became of what was sent before.
//!
//! Devices send in rounds, each once per round, in an order that is shuffled anew for every round: at a constant rate a device's
//! period is `devices / rate` on average, with the jitter of its place. Limits: 2^24 devices (24 bits of the devEUI).

use rand::Rng;
use rand::seq::SliceRandom as _;

use sluse_schema::id::DevEui;

use crate::payloads::Model;
use crate::scenario::Load;

/// Locally administered prefix of all simulated devEUIs.
const EUI_PREFIX: u64 = 0x000a_515e;

/// The devices of one run.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Tells this run's devices from those of other runs on the same data directory.
    pub run: u16,
    pub num_devices: u32,
    /// Devices from this index on post over HTTP.
    pub first_http: u32,
    pub num_applications: u32,
}

impl Fleet {
    /// The fleet that a scenario asks for.
    pub fn new(run: u16, load: &Load, num_applications: usize) -> Self {
        let num_http = (f64::from(load.devices) * load.http_share).round() as u32;
        Self {
            run,
            num_devices: load.devices,
            first_http: load.devices - num_http.min(load.devices),
            num_applications: num_applications as u32,
        }
    }

    /// Whether a device posts over HTTP.
    pub const fn is_http(&self, device: u32) -> bool {
        device >= self.first_http
    }

    /// A device's model.
    pub fn model(&self, device: u32) -> Model {
        if self.is_http(device) {
            return Model::PowerMeter;
        }
        Model::LORAWAN[(device / self.num_applications % 4) as usize]
    }

    /// A device's application, by index.
    pub const fn application(&self, device: u32) -> u32 {
        device % self.num_applications
    }

    /// A device's place among those of its application, 0 to 1.
    pub fn place(&self, device: u32) -> f64 {
        // Spread, so that a share of the devices holds every model.
        let spread = device.wrapping_mul(0x9e37_79b9);
        f64::from(spread) / 4_294_967_296.0
    }

    /// A device's devEUI.
    pub const fn dev_eui(&self, device: u32) -> DevEui {
        DevEui((EUI_PREFIX << 40) | ((self.run as u64) << 24) | device as u64)
    }

    /// The device of a devEUI, if it is one of this run.
    pub const fn device_of(&self, eui: DevEui) -> Option<u32> {
        let device = (eui.0 & 0x00ff_ffff) as u32;
        let is_ours = eui.0 >> 40 == EUI_PREFIX && (eui.0 >> 24) as u16 == self.run && device < self.num_devices;
        if is_ours { Some(device) } else { None }
    }

    /// The name under which a device is registered.
    pub fn device_name(&self, device: u32) -> String {
        format!("{} {:04x}-{device}", self.model(device).name(), self.run)
    }
}

/// Says how many uplinks are due and whose they are.
#[derive(Debug)]
pub struct Schedule {
    load: Load,
    order: Vec<u32>,
    next: usize,
    last_s: f64,
    /// Uplinks due and not yet handed out, with the fraction of the next one.
    due: f64,
}

impl Schedule {
    /// A schedule over all devices.
    pub fn new(load: &Load, rng: &mut impl Rng) -> Self {
        let mut order: Vec<u32> = (0..load.devices).collect();
        order.shuffle(rng);
        Self { load: load.clone(), order, next: 0, last_s: 0.0, due: 0.0 }
    }

    /// How many uplinks have become due by now (seconds since the load began). Time that runs back adds none.
    pub fn advance(&mut self, now_s: f64) -> u64 {
        let now_s = self.load.seconds.map_or(now_s, |end| now_s.min(end));
        let elapsed = (now_s - self.last_s).max(0.0);
        self.due += elapsed * self.load.rate_at(self.last_s);
        self.last_s = self.last_s.max(now_s);
        let whole = self.due.floor();
        self.due -= whole;
        whole as u64
    }

    /// Whose uplink is next.
    pub fn next_device(&mut self, rng: &mut impl Rng) -> u32 {
        if self.load.hot_share > 0.0 && rng.random_bool(self.load.hot_share) {
            return 0;
        }
        if self.next == self.order.len() {
            self.order.shuffle(rng);
            self.next = 0;
        }
        let device = self.order[self.next];
        self.next += 1;
        device
    }

    /// Whether the load is over.
    pub fn is_over(&self, now_s: f64) -> bool {
        self.load.seconds.is_some_and(|end| now_s >= end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::scenario::Scenario;

    fn load(text: &str) -> Load {
        Scenario::parse(&format!("name='x'\nabout='y'\n[load]\n{text}")).unwrap().load
    }

    #[test]
    fn a_dev_eui_leads_back_to_its_device_and_to_no_other_run() {
        let fleet = Fleet { run: 0xbeef, num_devices: 70_000, first_http: 70_000, num_applications: 1 };
        for device in [0, 1, 69_999] {
            assert_eq!(fleet.device_of(fleet.dev_eui(device)), Some(device));
        }
        assert_eq!(fleet.device_of(Fleet { run: 1, ..fleet }.dev_eui(5)), None);
        assert_eq!(fleet.device_of(fleet.dev_eui(70_000)), None);
        assert_eq!(fleet.dev_eui(1).0 >> 56 & 0b10, 0b10, "locally administered: nobody's real device");
    }

    #[test]
    fn every_application_has_every_model() {
        let fleet = Fleet::new(1, &load("rate=1\ndevices=120\nhttp_share=0.1"), 3);
        let mut models: HashMap<u32, Vec<Model>> = HashMap::new();
        for device in 0..120 {
            models.entry(fleet.application(device)).or_default().push(fleet.model(device));
        }
        for (application, models) in models {
            for model in Model::ALL {
                assert!(models.contains(&model), "application {application} has no {}", model.name());
            }
        }
    }

    #[test]
    fn what_is_due_follows_the_rate_however_often_it_is_asked() {
        let load = load("rate=1000\ndevices=10\nseconds=3\n[[load.burst]]\nfrom_s=1\nuntil_s=2\nfactor=3");
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Schedule::new(&load, &mut rng);
        let mut num_due = 0;
        for tick in 1..=5000 {
            num_due += schedule.advance(f64::from(tick) / 1000.0);
        }
        assert!((4995..=5005).contains(&num_due), "{num_due}");
        assert!(schedule.is_over(3.0) && !schedule.is_over(2.9));
    }

    #[test]
    fn every_device_sends_once_per_round() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut schedule = Schedule::new(&load("rate=1\ndevices=50"), &mut rng);
        for _ in 0..3 {
            let mut round: Vec<u32> = (0..50).map(|_| schedule.next_device(&mut rng)).collect();
            round.sort_unstable();
            assert_eq!(round, (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_hot_device_sends_its_share() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut schedule = Schedule::new(&load("rate=1\ndevices=1000\nhot_share=0.2"), &mut rng);
        let num_hot = (0..10_000).filter(|_| schedule.next_device(&mut rng) == 0).count();
        assert!((1800..2300).contains(&num_hot), "{num_hot}");
    }
}
