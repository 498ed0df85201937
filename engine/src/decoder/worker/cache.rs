//! The decoders a worker knows: sources as the engine sent them, compiled images within a byte budget. The least recently used image
//! goes first; its source stays, so that it is compiled again when a message comes. Sources are bounded by the parent, which says
//! what to forget.

use std::collections::HashMap;

use sluse_schema::device::Dialect;
use sluse_schema::port::DecodeError;

use super::engine::{Compiled, Engine};

struct Slot {
    source: Box<str>,
    dialect: Option<Dialect>,
    /// A failure is kept, too: the same source fails the same way.
    compiled: Option<Result<Compiled, DecodeError>>,
    used_at: u64,
}

/// See the module's header.
#[derive(Default)]
pub struct Cache {
    slots: HashMap<i64, Slot>,
    bytes: usize,
    num_images: u32,
    clock: u64,
}

impl Cache {
    /// A new script, or a new version of one.
    pub fn put(&mut self, decoder: i64, dialect: Option<Dialect>, source: &str) {
        self.forget(decoder);
        self.slots.insert(decoder, Slot { source: source.into(), dialect, compiled: None, used_at: 0 });
    }

    /// Drops a script.
    pub fn forget(&mut self, decoder: i64) {
        if let Some(slot) = self.slots.remove(&decoder) {
            self.uncount(slot.compiled.as_ref());
        }
    }

    /// Compiled decoders kept.
    pub fn num_images(&self) -> u32 {
        self.num_images
    }

    /// The decoder, compiled if need be, and whether that was needed; `None` when no such script was sent.
    pub fn get(
        &mut self,
        decoder: i64,
        engine: &Engine,
        bytes_max: usize,
    ) -> Option<(Result<&Compiled, &DecodeError>, bool)> {
        self.clock += 1;
        let clock = self.clock;
        let slot = self.slots.get_mut(&decoder)?;
        slot.used_at = clock;
        let is_new = slot.compiled.is_none();
        if is_new {
            let compiled = engine.compile(&slot.source, slot.dialect);
            if let Ok(compiled) = &compiled {
                self.bytes += compiled.num_bytes();
                self.num_images += 1;
            }
            slot.compiled = Some(compiled);
            self.evict(decoder, bytes_max);
        }
        let compiled = self.slots.get(&decoder)?.compiled.as_ref()?;
        Some((compiled.as_ref(), is_new))
    }

    fn evict(&mut self, keep: i64, bytes_max: usize) {
        while self.bytes > bytes_max {
            let oldest = self
                .slots
                .iter_mut()
                .filter(|(id, slot)| **id != keep && matches!(slot.compiled, Some(Ok(_))))
                .min_by_key(|(_, slot)| slot.used_at);
            let Some((_, slot)) = oldest else { return };
            let gone = slot.compiled.take();
            self.uncount(gone.as_ref());
        }
    }

    fn uncount(&mut self, compiled: Option<&Result<Compiled, DecodeError>>) {
        if let Some(Ok(compiled)) = compiled {
            self.bytes -= compiled.num_bytes();
            self.num_images -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::config::Limits;

    #[test]
    fn the_least_recently_used_image_goes_and_comes_back_compiled_again() {
        let engine = Engine::new(Limits::default()).unwrap();
        let mut cache = Cache::default();
        for id in 0..3 {
            cache.put(id, None, "function decode(payload, metadata) { return 1 }");
        }
        let one = cache.get(0, &engine, usize::MAX).unwrap().0.unwrap().num_bytes();
        let room_for_two = 2 * one + one / 2;
        assert!(cache.get(1, &engine, room_for_two).unwrap().1);
        assert!(!cache.get(0, &engine, room_for_two).unwrap().1);
        assert!(cache.get(2, &engine, room_for_two).unwrap().1, "1 is the oldest now");
        assert_eq!(cache.num_images(), 2);
        assert!(!cache.get(0, &engine, room_for_two).unwrap().1);
        assert!(cache.get(1, &engine, room_for_two).unwrap().1);
        assert!(cache.get(9, &engine, room_for_two).is_none());
    }

    #[test]
    fn a_failure_is_kept_until_a_new_version_comes() {
        let engine = Engine::new(Limits::default()).unwrap();
        let mut cache = Cache::default();
        cache.put(1, None, "function (");
        assert!(cache.get(1, &engine, 0).unwrap().0.is_err());
        assert!(!cache.get(1, &engine, 0).unwrap().1);
        cache.put(1, None, "function decode() {}");
        assert!(cache.get(1, &engine, 0).unwrap().0.is_ok());
        cache.forget(1);
        assert_eq!((cache.num_images(), cache.bytes), (0, 0));
    }
}
