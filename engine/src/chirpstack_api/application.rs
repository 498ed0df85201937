//! Applications in ChirpStack.

use chirpstack_api::api::application_service_client::ApplicationServiceClient;
use chirpstack_api::api::{
    Application, CreateApplicationRequest, DeleteApplicationRequest, GetApplicationRequest, ListApplicationsRequest,
};
use sluse_schema::port::network_server::Answer;

use super::{ChirpstackApi, PAGE_ROWS, found, gone};

impl ChirpstackApi {
    fn applications(&self) -> ApplicationServiceClient<tonic::transport::Channel> {
        ApplicationServiceClient::new(self.channel())
    }

    /// The application of this name that has our tag, or a new one: what a crash left half done is found again.
    pub(super) async fn application_ensured(&self, name: &str, (tag, value): (&str, &str)) -> Answer<String> {
        let tenant_id = self.tenant().await?;
        let _one_at_a_time = self.making_application.lock().await;
        let request = ListApplicationsRequest {
            limit: PAGE_ROWS,
            search: name.to_owned(),
            tenant_id: tenant_id.clone(),
            ..Default::default()
        };
        let mut client = self.applications();
        let list = self.call("list_applications", request, |r| async move { client.list(r).await }).await?;
        for item in list.result.into_iter().filter(|item| item.name == name) {
            let request = GetApplicationRequest { id: item.id.clone() };
            let mut client = self.applications();
            let got = found(self.call("get_application", request, |r| async move { client.get(r).await }).await)?;
            let is_ours = got
                .and_then(|got| got.application)
                .is_some_and(|application| application.tags.get(tag).is_some_and(|has| has == value));
            if is_ours {
                return Ok(item.id);
            }
        }
        let application = Application {
            name: name.to_owned(),
            description: "Made by Sluse".to_owned(),
            tenant_id,
            tags: [(tag.to_owned(), value.to_owned())].into_iter().collect(),
            ..Default::default()
        };
        let request = CreateApplicationRequest { application: Some(application) };
        let mut client = self.applications();
        Ok(self.call("create_application", request, |r| async move { client.create(r).await }).await?.id)
    }

    pub(super) async fn application_deleted(&self, id: &str) -> Answer<()> {
        let request = DeleteApplicationRequest { id: id.to_owned() };
        let mut client = self.applications();
        gone(self.call("delete_application", request, |r| async move { client.delete(r).await }).await)
    }
}
