//! `sluse serve`.

use crate::config::Config;

/// Runs the engine until it is told to stop.
pub fn serve(config: Config) -> anyhow::Result<()> {
    super::logging::start(&config.tracing)?;
    actix::System::new().block_on(async move {
        let report = crate::engine::run(config).await?;
        anyhow::ensure!(report.is_clean(), "the stop was not clean");
        Ok(())
    })
}
