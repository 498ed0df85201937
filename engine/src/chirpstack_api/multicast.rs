//! Multicast groups in ChirpStack: class C in EU868.

use chirpstack_api::api::device_service_client::DeviceServiceClient;
use chirpstack_api::api::multicast_group_service_client::MulticastGroupServiceClient;
use chirpstack_api::api::{
    AddDeviceToMulticastGroupRequest, CreateMulticastGroupRequest, DeleteMulticastGroupRequest,
    EnqueueMulticastGroupQueueItemRequest, FlushMulticastGroupQueueRequest, GetMulticastGroupRequest,
    ListDevicesRequest, ListMulticastGroupQueueRequest, MulticastGroup, MulticastGroupQueueItem, MulticastGroupType,
    RemoveDeviceFromMulticastGroupRequest, UpdateMulticastGroupRequest,
};
use chirpstack_api::common::Region;
use sluse_schema::id::DevEui;
use sluse_schema::port::network_server::{Answer, MulticastQueueItem, NetworkMulticast};

use super::{ChirpstackApi, PAGE_ROWS, gone};

fn group_to(group: &NetworkMulticast, mut message: MulticastGroup) -> MulticastGroup {
    message.name = group.name.clone();
    message.application_id = group.application.clone();
    message.region = Region::Eu868.into();
    message.mc_addr = group.address.clone();
    message.mc_nwk_s_key = group.network_session_key.reveal().to_owned();
    message.mc_app_s_key = group.application_session_key.reveal().to_owned();
    message.f_cnt = group.f_cnt;
    message.group_type = MulticastGroupType::ClassC.into();
    message.dr = group.dr;
    message.frequency = group.frequency_hz;
    message
}

impl ChirpstackApi {
    fn groups(&self) -> MulticastGroupServiceClient<tonic::transport::Channel> {
        MulticastGroupServiceClient::new(self.channel())
    }

    pub(super) async fn multicast_created(&self, group: &NetworkMulticast) -> Answer<String> {
        let request = CreateMulticastGroupRequest { multicast_group: Some(group_to(group, MulticastGroup::default())) };
        let mut client = self.groups();
        Ok(self.call("create_multicast", request, |r| async move { client.create(r).await }).await?.id)
    }

    pub(super) async fn multicast_updated(&self, id: &str, group: &NetworkMulticast) -> Answer<()> {
        let request = GetMulticastGroupRequest { id: id.to_owned() };
        let mut client = self.groups();
        let before = self.call("get_multicast", request, |r| async move { client.get(r).await }).await?;
        let before = before.multicast_group.unwrap_or_default();
        // The counter only ever goes up: an older one from a form would make devices drop what follows.
        let f_cnt = before.f_cnt.max(group.f_cnt);
        let message = MulticastGroup { f_cnt, ..group_to(group, before) };
        let request = UpdateMulticastGroupRequest { multicast_group: Some(message) };
        let mut client = self.groups();
        self.call("update_multicast", request, |r| async move { client.update(r).await }).await
    }

    pub(super) async fn multicast_deleted(&self, id: &str) -> Answer<()> {
        let request = DeleteMulticastGroupRequest { id: id.to_owned() };
        let mut client = self.groups();
        gone(self.call("delete_multicast", request, |r| async move { client.delete(r).await }).await)
    }

    pub(super) async fn multicast_devices_read(&self, id: &str, application: &str) -> Answer<Vec<DevEui>> {
        let mut known: Vec<DevEui> = Vec::new();
        loop {
            let offset = u32::try_from(known.len()).unwrap_or(u32::MAX);
            let request = ListDevicesRequest {
                limit: PAGE_ROWS,
                offset,
                multicast_group_id: id.to_owned(),
                application_id: application.to_owned(),
                ..Default::default()
            };
            let mut client = DeviceServiceClient::new(self.channel());
            let list = self.call("list_devices", request, |r| async move { client.list(r).await }).await?;
            if list.result.is_empty() {
                return Ok(known);
            }
            known.extend(list.result.iter().filter_map(|item| item.dev_eui.parse::<DevEui>().ok()));
            if known.len() >= list.total_count as usize {
                return Ok(known);
            }
        }
    }

    pub(super) async fn multicast_entered(&self, id: &str, dev_eui: DevEui) -> Answer<()> {
        let request =
            AddDeviceToMulticastGroupRequest { multicast_group_id: id.to_owned(), dev_eui: dev_eui.to_string() };
        let mut client = self.groups();
        self.call("add_to_multicast", request, |r| async move { client.add_device(r).await }).await
    }

    pub(super) async fn multicast_left(&self, id: &str, dev_eui: DevEui) -> Answer<()> {
        let request =
            RemoveDeviceFromMulticastGroupRequest { multicast_group_id: id.to_owned(), dev_eui: dev_eui.to_string() };
        let mut client = self.groups();
        gone(self.call("remove_from_multicast", request, |r| async move { client.remove_device(r).await }).await)
    }

    pub(super) async fn multicast_enqueued(&self, id: &str, f_port: u32, data: &[u8]) -> Answer<u32> {
        let item = MulticastGroupQueueItem {
            multicast_group_id: id.to_owned(),
            f_port,
            data: data.to_vec(),
            ..Default::default()
        };
        let request = EnqueueMulticastGroupQueueItemRequest { queue_item: Some(item) };
        let mut client = self.groups();
        Ok(self.call("enqueue_multicast", request, |r| async move { client.enqueue(r).await }).await?.f_cnt)
    }

    pub(super) async fn multicast_flushed(&self, id: &str) -> Answer<()> {
        let request = FlushMulticastGroupQueueRequest { multicast_group_id: id.to_owned() };
        let mut client = self.groups();
        self.call("flush_multicast", request, |r| async move { client.flush_queue(r).await }).await
    }

    pub(super) async fn multicast_queue_read(&self, id: &str) -> Answer<Vec<MulticastQueueItem>> {
        let request = ListMulticastGroupQueueRequest { multicast_group_id: id.to_owned() };
        let mut client = self.groups();
        let list = self.call("multicast_queue", request, |r| async move { client.list_queue(r).await }).await?;
        Ok(list
            .items
            .into_iter()
            .map(|item| MulticastQueueItem {
                group: item.multicast_group_id,
                f_cnt: item.f_cnt,
                f_port: item.f_port,
                data: item.data,
            })
            .collect())
    }
}
