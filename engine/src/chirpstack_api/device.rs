//! Devices in ChirpStack: what they are, how they join, their sessions, queues and link figures.

use chirpstack_api::api::device_service_client::DeviceServiceClient;
use chirpstack_api::api::{
    ActivateDeviceRequest, CreateDeviceKeysRequest, CreateDeviceRequest, DeleteDeviceRequest, Device, DeviceActivation,
    DeviceKeys, DeviceQueueItem, EnqueueDeviceQueueItemRequest, FlushDeviceQueueRequest, GetDeviceActivationRequest,
    GetDeviceKeysRequest, GetDeviceLinkMetricsRequest, GetDeviceRequest, UpdateDeviceKeysRequest, UpdateDeviceRequest,
};
use chirpstack_api::common::Aggregation;
use chrono::{NaiveDate, Utc};
use sluse_schema::id::DevEui;
use sluse_schema::port::network_server::{Answer, DeviceStatus, KnownDevice, LinkDay, NetworkDevice, Session};
use sluse_schema::secret::Secret;

use super::{ChirpstackApi, convert, found, gone, metric};

/// Tells devices that Sluse made from others in ChirpStack.
const TAG: (&str, &str) = ("managedBy", "sluse");

fn device_to(device: &NetworkDevice, before: Option<Device>) -> Device {
    let mut message = before.unwrap_or_default();
    message.dev_eui = device.dev_eui.to_string();
    message.name = device.name.clone();
    message.description = device.description.clone();
    message.application_id = device.application.clone();
    message.device_profile_id = device.profile.clone();
    message.is_disabled = device.is_disabled;
    message.skip_fcnt_check = device.skips_f_cnt_check;
    message.tags.insert(TAG.0.to_owned(), TAG.1.to_owned());
    message
}

impl ChirpstackApi {
    fn devices(&self) -> DeviceServiceClient<tonic::transport::Channel> {
        DeviceServiceClient::new(self.channel())
    }

    pub(super) async fn device_read(&self, dev_eui: DevEui) -> Answer<Option<KnownDevice>> {
        let request = GetDeviceRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        let got = found(self.call("get_device", request, |r| async move { client.get(r).await }).await)?;
        let Some(got) = got else { return Ok(None) };
        let Some(device) = got.device else { return Ok(None) };
        Ok(Some(KnownDevice {
            is_ours: device.tags.get(TAG.0).is_some_and(|value| value == TAG.1),
            device: NetworkDevice {
                dev_eui,
                name: device.name,
                description: device.description,
                application: device.application_id,
                profile: device.device_profile_id,
                is_disabled: device.is_disabled,
                skips_f_cnt_check: device.skip_fcnt_check,
            },
            // ChirpStack says -1 for a battery that it knows nothing of.
            status: got.device_status.map(|status| DeviceStatus {
                margin_db: status.margin,
                battery_level_percent: (!status.external_power_source && status.battery_level >= 0.0)
                    .then_some(status.battery_level),
                is_external_power: status.external_power_source,
            }),
        }))
    }

    pub(super) async fn device_created(&self, device: &NetworkDevice) -> Answer<()> {
        let request = CreateDeviceRequest { device: Some(device_to(device, None)) };
        let mut client = self.devices();
        self.call("create_device", request, |r| async move { client.create(r).await }).await
    }

    /// Reads, changes and writes: variables and further tags were set in ChirpStack and stay.
    pub(super) async fn device_updated(&self, device: &NetworkDevice) -> Answer<()> {
        let request = GetDeviceRequest { dev_eui: device.dev_eui.to_string() };
        let mut client = self.devices();
        let before = self.call("get_device", request, |r| async move { client.get(r).await }).await?;
        let request = UpdateDeviceRequest { device: Some(device_to(device, before.device)) };
        let mut client = self.devices();
        self.call("update_device", request, |r| async move { client.update(r).await }).await
    }

    pub(super) async fn device_deleted(&self, dev_eui: DevEui) -> Answer<()> {
        let request = DeleteDeviceRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        gone(self.call("delete_device", request, |r| async move { client.delete(r).await }).await)
    }

    /// Up to LoRaWAN 1.0.4 the key that a device joins with is what ChirpStack calls the network key.
    pub(super) async fn join_key_read(&self, dev_eui: DevEui) -> Answer<Option<Secret>> {
        let request = GetDeviceKeysRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        let got = found(self.call("get_keys", request, |r| async move { client.get_keys(r).await }).await)?;
        let key = got.and_then(|got| got.device_keys).map(|keys| keys.nwk_key);
        Ok(key.filter(|key| !key.is_empty()).map(Secret::new))
    }

    pub(super) async fn join_key_set(&self, dev_eui: DevEui, key: &Secret) -> Answer<()> {
        let keys = || DeviceKeys {
            dev_eui: dev_eui.to_string(),
            nwk_key: key.reveal().to_owned(),
            app_key: key.reveal().to_owned(),
            gen_app_key: "00000000000000000000000000000000".to_owned(),
        };
        let request = GetDeviceKeysRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        let known = found(self.call("get_keys", request, |r| async move { client.get_keys(r).await }).await)?;
        let Some(known) = known.map(|got| got.device_keys.unwrap_or_default()) else {
            let request = CreateDeviceKeysRequest { device_keys: Some(keys()) };
            let mut client = self.devices();
            return self.call("create_keys", request, |r| async move { client.create_keys(r).await }).await;
        };
        if known.nwk_key.eq_ignore_ascii_case(key.reveal()) {
            return Ok(());
        }
        let request =
            UpdateDeviceKeysRequest { device_keys: Some(DeviceKeys { gen_app_key: known.gen_app_key, ..keys() }) };
        let mut client = self.devices();
        self.call("update_keys", request, |r| async move { client.update_keys(r).await }).await
    }

    pub(super) async fn session_read(&self, dev_eui: DevEui) -> Answer<Option<Session>> {
        let request = GetDeviceActivationRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        let got = found(self.call("get_activation", request, |r| async move { client.get_activation(r).await }).await)?;
        Ok(got.and_then(|got| got.device_activation).map(|active| Session {
            dev_addr: active.dev_addr,
            network_session_key: Secret::new(active.nwk_s_enc_key),
            application_session_key: Secret::new(active.app_s_key),
            f_cnt_up: active.f_cnt_up,
            n_f_cnt_down: active.n_f_cnt_down,
        }))
    }

    pub(super) async fn activated(&self, dev_eui: DevEui, session: &Session) -> Answer<()> {
        let network_key = session.network_session_key.reveal();
        let activation = DeviceActivation {
            dev_eui: dev_eui.to_string(),
            dev_addr: session.dev_addr.clone(),
            app_s_key: session.application_session_key.reveal().to_owned(),
            // LoRaWAN 1.0 has one network session key in the place of three.
            nwk_s_enc_key: network_key.to_owned(),
            s_nwk_s_int_key: network_key.to_owned(),
            f_nwk_s_int_key: network_key.to_owned(),
            f_cnt_up: session.f_cnt_up,
            n_f_cnt_down: session.n_f_cnt_down,
            a_f_cnt_down: 0,
        };
        let request = ActivateDeviceRequest { device_activation: Some(activation) };
        let mut client = self.devices();
        self.call("activate", request, |r| async move { client.activate(r).await }).await
    }

    pub(super) async fn link_days_read(&self, dev_eui: DevEui, from: NaiveDate) -> Answer<Vec<LinkDay>> {
        let request = GetDeviceLinkMetricsRequest {
            dev_eui: dev_eui.to_string(),
            start: Some(convert::stamp(convert::start_of(from))),
            end: Some(convert::stamp(Utc::now())),
            aggregation: Aggregation::Day.into(),
        };
        let mut client = self.devices();
        let got = self.call("link_metrics", request, |r| async move { client.get_link_metrics(r).await }).await?;
        let (rssi, snr, by_dr) = (got.gw_rssi.as_ref(), got.gw_snr.as_ref(), got.rx_packets_per_dr.as_ref());
        Ok(metric::days(rssi)
            .into_iter()
            .enumerate()
            .map(|(day, at)| LinkDay {
                at,
                rssi_dbm: metric::value(rssi, day),
                snr_db: metric::value(snr, day),
                num_packets_by_dr: metric::by_label(by_dr, day).into_iter().collect(),
            })
            .collect())
    }

    pub(super) async fn enqueued(
        &self,
        dev_eui: DevEui,
        f_port: u32,
        is_confirmed: bool,
        data: &[u8],
    ) -> Answer<String> {
        let item = DeviceQueueItem {
            dev_eui: dev_eui.to_string(),
            confirmed: is_confirmed,
            f_port,
            data: data.to_vec(),
            ..Default::default()
        };
        let request = EnqueueDeviceQueueItemRequest { queue_item: Some(item), flush_queue: false };
        let mut client = self.devices();
        Ok(self.call("enqueue", request, |r| async move { client.enqueue(r).await }).await?.id)
    }

    pub(super) async fn queue_flushed(&self, dev_eui: DevEui) -> Answer<()> {
        let request = FlushDeviceQueueRequest { dev_eui: dev_eui.to_string() };
        let mut client = self.devices();
        self.call("flush_queue", request, |r| async move { client.flush_queue(r).await }).await
    }
}
