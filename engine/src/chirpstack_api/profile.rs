//! Device profiles in ChirpStack. What the API does not have (codecs, relays, application layers) stays as it is there.

use chirpstack_api::api::device_profile_service_client::DeviceProfileServiceClient;
use chirpstack_api::api::{
    CreateDeviceProfileRequest, DeleteDeviceProfileRequest, DeviceProfile, GetDeviceProfileRequest,
    ListDeviceProfilesRequest, UpdateDeviceProfileRequest,
};
use chirpstack_api::common::Region;
use sluse_schema::port::network_server::{Answer, KnownProfile, NetworkProfile};

use super::{ChirpstackApi, PAGE_ROWS, convert, found, gone};

/// Seconds that a device is expected to send within.
const UPLINK_INTERVAL_S: u32 = 3600;

fn profile_to(profile: &NetworkProfile, mut message: DeviceProfile) -> DeviceProfile {
    message.name = profile.name.clone();
    message.region = Region::Eu868.into();
    message.mac_version = profile.mac_version;
    message.reg_params_revision = profile.reg_params_revision;
    message.adr_algorithm_id = profile.adr_algorithm.clone();
    message.supports_otaa = profile.supports_join;
    message.supports_class_b = profile.supports_class_b;
    message.supports_class_c = profile.supports_class_c;
    message.class_b_timeout = profile.class_b_timeout_s;
    message.class_b_ping_slot_periodicity = profile.ping_slot_period;
    message.class_b_ping_slot_dr = profile.ping_slot_dr;
    message.class_b_ping_slot_freq = profile.ping_slot_frequency_hz;
    message.class_c_timeout = profile.class_c_timeout_s;
    message.device_status_req_interval = profile.status_requests_per_day;
    message.abp_rx1_delay = profile.rx1_delay;
    message.abp_rx1_dr_offset = profile.rx1_dr_offset;
    message.abp_rx2_dr = profile.rx2_dr;
    message.abp_rx2_freq = profile.rx2_frequency_hz;
    message.tags = convert::tags_to(&profile.tags);
    if message.uplink_interval == 0 {
        message.uplink_interval = UPLINK_INTERVAL_S;
    }
    message
}

fn profile_from(message: DeviceProfile) -> NetworkProfile {
    NetworkProfile {
        id: message.id,
        name: message.name,
        mac_version: message.mac_version,
        reg_params_revision: message.reg_params_revision,
        adr_algorithm: message.adr_algorithm_id,
        supports_join: message.supports_otaa,
        supports_class_b: message.supports_class_b,
        supports_class_c: message.supports_class_c,
        class_b_timeout_s: message.class_b_timeout,
        ping_slot_period: message.class_b_ping_slot_periodicity,
        ping_slot_dr: message.class_b_ping_slot_dr,
        ping_slot_frequency_hz: message.class_b_ping_slot_freq,
        class_c_timeout_s: message.class_c_timeout,
        status_requests_per_day: message.device_status_req_interval,
        rx1_delay: message.abp_rx1_delay,
        rx1_dr_offset: message.abp_rx1_dr_offset,
        rx2_dr: message.abp_rx2_dr,
        rx2_frequency_hz: message.abp_rx2_freq,
        tags: convert::tags_from(message.tags),
    }
}

impl ChirpstackApi {
    fn profiles_client(&self) -> DeviceProfileServiceClient<tonic::transport::Channel> {
        DeviceProfileServiceClient::new(self.channel())
    }

    pub(super) async fn profiles_read(&self) -> Answer<Vec<KnownProfile>> {
        let tenant_id = self.tenant().await?;
        let mut known: Vec<KnownProfile> = Vec::new();
        loop {
            let offset = u32::try_from(known.len()).unwrap_or(u32::MAX);
            let request = ListDeviceProfilesRequest {
                limit: PAGE_ROWS,
                offset,
                tenant_id: tenant_id.clone(),
                tenant_only: true,
                ..Default::default()
            };
            let mut client = self.profiles_client();
            let list = self.call("list_profiles", request, |r| async move { client.list(r).await }).await?;
            if list.result.is_empty() {
                return Ok(known);
            }
            known.extend(list.result.into_iter().map(|item| KnownProfile { id: item.id, name: item.name }));
            if known.len() >= list.total_count as usize {
                return Ok(known);
            }
        }
    }

    async fn profile_message(&self, id: &str) -> Answer<DeviceProfile> {
        let request = GetDeviceProfileRequest { id: id.to_owned() };
        let mut client = self.profiles_client();
        let got = self.call("get_profile", request, |r| async move { client.get(r).await }).await?;
        Ok(got.device_profile.unwrap_or_default())
    }

    pub(super) async fn profile_read(&self, id: &str) -> Answer<Option<NetworkProfile>> {
        Ok(found(self.profile_message(id).await)?.map(profile_from))
    }

    pub(super) async fn profile_created(&self, profile: &NetworkProfile) -> Answer<String> {
        let empty = DeviceProfile { tenant_id: self.tenant().await?, ..Default::default() };
        let request = CreateDeviceProfileRequest { device_profile: Some(profile_to(profile, empty)) };
        let mut client = self.profiles_client();
        Ok(self.call("create_profile", request, |r| async move { client.create(r).await }).await?.id)
    }

    pub(super) async fn profile_updated(&self, profile: &NetworkProfile) -> Answer<()> {
        let before = self.profile_message(&profile.id).await?;
        let request = UpdateDeviceProfileRequest { device_profile: Some(profile_to(profile, before)) };
        let mut client = self.profiles_client();
        self.call("update_profile", request, |r| async move { client.update(r).await }).await
    }

    pub(super) async fn profile_deleted(&self, id: &str) -> Answer<()> {
        let request = DeleteDeviceProfileRequest { id: id.to_owned() };
        let mut client = self.profiles_client();
        gone(self.call("delete_profile", request, |r| async move { client.delete(r).await }).await)
    }

    pub(super) async fn adr_algorithms_read(&self) -> Answer<Vec<(String, String)>> {
        let mut client = self.profiles_client();
        let list = self.call("adr_algorithms", (), |r| async move { client.list_adr_algorithms(r).await }).await?;
        Ok(list.result.into_iter().map(|item| (item.id, item.name)).collect())
    }
}
