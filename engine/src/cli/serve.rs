//! `sluse serve`.

use crate::config::Config;

/// Runs the engine until it is told to stop.
pub fn serve(config: Config) -> anyhow::Result<()> {
    if config.kafka.is_some() {
        crate::memory::keep_freed_over(crate::pipeline::KAFKA_MOMENTS);
    }
    let system_log = super::logging::start(&config.tracing)?;
    actix::System::new().block_on(async move {
        let report = crate::engine::run(config, system_log).await?;
        anyhow::ensure!(report.is_clean(), "the stop was not clean");
        Ok(())
    })
}
