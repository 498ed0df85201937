//! What callbacks from QuickJS need of the Rust side: the work budget, whether the clock was read, and the payload's members
//! that are not JavaScript objects yet. It lives outside the arena, so restoring an image does not touch it.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use rquickjs::qjs;

/// A member whose text is turned into JavaScript when somebody reads it.
#[derive(Clone, Copy)]
pub struct LazyMember {
    /// The object that has the member.
    pub holder: qjs::JSValue,
    pub name: qjs::JSAtom,
    /// Where its JSON text lies in [`Shared::input`].
    pub start: usize,
    pub len: usize,
    /// Whether its `createdAt` and the like are to be `Date`s.
    pub has_dates: bool,
    /// The value, once it was read (or written) and the accessor could not be replaced.
    pub value: Option<qjs::JSValue>,
}

/// See the module's header. One per engine, at a fixed address.
pub struct Shared {
    /// Interrupt-handler calls (10 000 jumps or calls each) that this call may still make.
    polls_left: Cell<u32>,
    is_interrupted: Cell<bool>,
    /// Set when a script reads the clock or asks for a random number.
    pub has_read_clock: Cell<bool>,
    random: Cell<u64>,
    /// The built-in `Date`, which ours calls.
    pub date: Cell<qjs::JSValue>,
    pub lazy: RefCell<Vec<LazyMember>>,
    /// The text lazy members point into, and room for a NUL-terminated copy.
    pub input: RefCell<Vec<u8>>,
    pub scratch: RefCell<Vec<u8>>,
}

impl Default for Shared {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        Self {
            polls_left: Cell::new(u32::MAX),
            is_interrupted: Cell::new(false),
            has_read_clock: Cell::new(false),
            // Address and time are enough of a seed: `Math.random` promises no secrecy.
            random: Cell::new((now ^ (std::ptr::from_ref(&now) as u64).rotate_left(32)) | 1),
            date: Cell::new(qjs::JS_UNDEFINED),
            lazy: RefCell::default(),
            input: RefCell::default(),
            scratch: RefCell::default(),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("polls_left", &self.polls_left).finish_non_exhaustive()
    }
}

impl Shared {
    /// The shared part of the engine that `ctx` belongs to.
    ///
    /// # Safety
    /// `ctx` is a live context of an engine, which set the opaque and outlives the call.
    pub unsafe fn of<'a>(ctx: *mut qjs::JSContext) -> &'a Self {
        // SAFETY: the engine sets the runtime's opaque to its boxed `Shared` before any script runs.
        unsafe { &*qjs::JS_GetRuntimeOpaque(qjs::JS_GetRuntime(ctx)).cast::<Self>() }
    }

    /// Starts a call with this budget.
    pub fn begin(&self, polls_max: u32) {
        self.polls_left.set(polls_max);
        self.is_interrupted.set(false);
        self.has_read_clock.set(false);
    }

    /// Takes `polls` from the budget; `false` when it is used up.
    pub fn charge(&self, polls: u32) -> bool {
        let left = self.polls_left.get();
        if left < polls || left == 0 {
            self.polls_left.set(0);
            self.is_interrupted.set(true);
            return false;
        }
        self.polls_left.set(left - polls);
        true
    }

    /// Whether the budget ran out during this call.
    pub fn is_interrupted(&self) -> bool {
        self.is_interrupted.get()
    }

    /// A number in [0, 1), from a generator that no image restores.
    pub fn next_random(&self) -> f64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_stay_in_range_and_differ() {
        let shared = Shared::default();
        let mut last = -1.0;
        for _ in 0..1_000 {
            let x = shared.next_random();
            assert!((0.0..1.0).contains(&x));
            assert_ne!(x, last);
            last = x;
        }
    }

    #[test]
    fn a_budget_ends_exactly_and_stays_ended() {
        let shared = Shared::default();
        shared.begin(3);
        assert!(shared.charge(1) && shared.charge(2));
        assert!(!shared.charge(1) && shared.is_interrupted());
        shared.begin(1);
        assert!(!shared.is_interrupted() && shared.charge(1));
    }
}
