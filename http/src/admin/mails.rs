//! What people are written, in Danish like the web client, and sending it on behalf of a request: a mail that does not leave is a
//! 400 `MESSAGE.SEND-MAIL-ERROR`, since then the caller's wish is not carried out either.

use sluse_schema::port::admin::{OrganizationRow, UserRow};
use sluse_schema::port::{Mail, MailBody};

use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};

/// Sends a mail; to nobody is nothing to do.
pub async fn send(state: &AppState, mail: Mail) -> ApiResult<()> {
    if mail.to.is_empty() {
        return Ok(());
    }
    state.ports.mailer.send(&mail).await.map_err(|error| {
        tracing::warn!(%error, "a request was refused since its mail could not be sent");
        ApiError::bad_request(code::SEND_MAIL_ERROR)
    })
}

fn signed(state: &AppState, body: MailBody) -> MailBody {
    body.link("Åbn OS2iot", state.config.frontend_base_url.clone())
        .paragraph("Denne mail er sendt automatisk af OS2iot.")
}

/// To an organisation's administrators: somebody wants to be let in.
pub fn access_requested(
    state: &AppState,
    to: Vec<String>,
    user: &UserRow,
    email: Option<&str>,
    organization: &OrganizationRow,
) -> Mail {
    let body = MailBody::new()
        .paragraph("Hej")
        .paragraph(format!(
            "En bruger har anmodet om adgang til organisationen {}. Anmodningen venter på din behandling.",
            organization.name
        ))
        .row("Navn", user.name.clone())
        .row("E-mail", email.unwrap_or("ikke oplyst"));
    Mail::new(to, format!("Ny anmodning om adgang til {}", organization.name), signed(state, body))
}

/// To somebody who was let in.
pub fn access_granted(state: &AppState, user: &UserRow, organization: &OrganizationRow) -> Mail {
    let body = MailBody::new()
        .paragraph(format!("Hej {}", user.name))
        .paragraph(format!("Din anmodning om adgang til organisationen {} er godkendt.", organization.name));
    let subject = format!("Din adgang til {} er godkendt", organization.name);
    Mail::new(user.email.iter().cloned().collect(), subject, signed(state, body))
}

/// To somebody who was sent away.
pub fn access_refused(state: &AppState, user: &UserRow, organization: &OrganizationRow) -> Mail {
    let body = MailBody::new()
        .paragraph(format!("Hej {}", user.name))
        .paragraph(format!("Din anmodning om adgang til organisationen {} er afvist.", organization.name));
    let subject = format!("Din anmodning om adgang til {} er afvist", organization.name);
    Mail::new(user.email.iter().cloned().collect(), subject, signed(state, body))
}
