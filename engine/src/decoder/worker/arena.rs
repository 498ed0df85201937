//! The memory a JavaScript runtime lives in: one fixed range of addresses, so that everything a runtime is can be copied out
//! as an [`Image`] and put back byte for byte.
//!
//! Layout: [`Header`], then chunks of `8 bytes of size class + payload`, handed out upwards from `top`; freed chunks wait in one
//! list per size class. The bookkeeping lies inside the arena, so an image carries it along. Payloads are 16-byte aligned.
//! A full arena answers null, which QuickJS turns into "out of memory": the arena is also the hard memory limit.
//! Not thread-safe; an arena stays on the thread that made it.
// `size_t` is `u64` in the bindings of some targets and `usize` in others.
#![allow(unsafe_code, clippy::unnecessary_cast)]

use std::ffi::c_void;
use std::ptr;

use rquickjs::qjs;

/// Payloads start at multiples of this.
const ALIGN: usize = 16;
/// The size class in front of each payload.
const CHUNK_HEADER_BYTES: usize = 8;
/// Classes of 16-byte steps, up to 1 kB.
const NUM_SMALL: usize = 64;
/// Above that: steps per doubling, so that at most a sixteenth of a chunk is waste.
const STEPS_PER_DOUBLING: usize = 16;
const NUM_CLASSES: usize = NUM_SMALL + STEPS_PER_DOUBLING * 16;
/// An arena that had to grow beyond this gives the pages back to the system afterwards.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// Bookkeeping at the start of the arena. Offsets are from the arena's base; 0 ends a list.
#[repr(C)]
struct Header {
    /// Where the next new chunk starts; always 8 below a multiple of 16.
    top: usize,
    /// The highest `top` since the last restore.
    top_max: usize,
    len: usize,
    /// Bytes in chunks that are in use, and how many may be.
    live: usize,
    live_max: usize,
    /// Whether an allocation was refused since the last restore.
    has_refused: bool,
    free: [usize; NUM_CLASSES],
}

/// Whole size of chunks of a class, header included.
const fn chunk_bytes(class: usize) -> usize {
    if class < NUM_SMALL {
        (class + 1) * ALIGN
    } else {
        let above = class - NUM_SMALL;
        let base = (NUM_SMALL * ALIGN) << (above / STEPS_PER_DOUBLING);
        base + (base / STEPS_PER_DOUBLING) * (above % STEPS_PER_DOUBLING + 1)
    }
}

/// The smallest class whose chunks hold `payload` bytes; `None` beyond the largest.
fn class_of(payload: usize) -> Option<usize> {
    let total = payload.checked_add(CHUNK_HEADER_BYTES)?.next_multiple_of(ALIGN).max(2 * ALIGN);
    let small_max = NUM_SMALL * ALIGN;
    if total <= small_max {
        return Some(total / ALIGN - 1);
    }
    let doublings = ((total - 1) / small_max).ilog2() as usize;
    let base = small_max << doublings;
    let step = base / STEPS_PER_DOUBLING;
    let class = NUM_SMALL + doublings * STEPS_PER_DOUBLING + (total - base).div_ceil(step) - 1;
    (class < NUM_CLASSES).then_some(class)
}

/// A range of memory for one runtime at a time.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
    len: usize,
}

/// What an arena held at one moment: a whole runtime with everything in it.
pub struct Image(Box<[u8]>);

impl Image {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes)", self.0.len())
    }
}

impl Arena {
    /// Reserves `len` bytes of addresses, of which `live_max` may be in use at a time; the rest is for fragmentation. Memory is
    /// taken as it is touched.
    ///
    /// # Errors
    /// The system's, when it has no such range.
    pub fn new(len: usize, live_max: usize) -> std::io::Result<Self> {
        // SAFETY: a fresh private mapping of our own; the result is checked before use.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let arena = Self { base: base.cast(), len };
        let first = (size_of::<Header>() + CHUNK_HEADER_BYTES).next_multiple_of(ALIGN) - CHUNK_HEADER_BYTES;
        // SAFETY: the mapping is zeroed, page-aligned and larger than a header.
        unsafe {
            let header = arena.header();
            (*header).top = first;
            (*header).top_max = first;
            (*header).len = len;
            (*header).live_max = live_max;
        }
        Ok(arena)
    }

    fn header(&self) -> *mut Header {
        self.base.cast()
    }

    /// Copies out everything that is in use.
    pub fn image(&self) -> Image {
        // SAFETY: everything below `top` was written or is part of a zeroed mapping, and `top <= len`.
        Image(unsafe { std::slice::from_raw_parts(self.base, (*self.header()).top) }.into())
    }

    /// Makes the arena what it was when the image was taken from it. Every pointer into the arena that was not valid then is
    /// dangling afterwards; what the last tenant left above the image's end is unreachable, and given back when it was much.
    pub fn restore(&self, image: &Image) {
        // SAFETY: the image came from an arena of this length (checked), so it fits; nothing of Rust's points into the arena.
        unsafe {
            assert!(image.0.len() <= self.len, "an image is put back into an arena of the same size");
            let top_max = (*self.header()).top_max;
            ptr::copy_nonoverlapping(image.0.as_ptr(), self.base, image.0.len());
            (*self.header()).top_max = image.0.len();
            (*self.header()).has_refused = false;
            let keep = KEEP_RESIDENT_BYTES.max(image.0.len()).next_multiple_of(1 << 16);
            if top_max > keep {
                libc::madvise(self.base.add(keep).cast(), top_max - keep, libc::MADV_DONTNEED);
            }
        }
    }

    /// Whether memory ran out since the last restore.
    pub fn has_refused(&self) -> bool {
        // SAFETY: the header is at the base of our own mapping.
        unsafe { (*self.header()).has_refused }
    }

    /// What QuickJS is to allocate with, and the `opaque` that goes with it.
    pub fn malloc_functions(&self) -> (qjs::JSMallocFunctions, *mut c_void) {
        let functions = qjs::JSMallocFunctions {
            js_calloc: Some(js_calloc),
            js_malloc: Some(js_malloc),
            js_free: Some(js_free),
            js_realloc: Some(js_realloc),
            js_malloc_usable_size: Some(js_malloc_usable_size),
        };
        (functions, self.base.cast())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once; runtimes inside need no destructors, they own nothing outside.
        unsafe {
            libc::munmap(self.base.cast(), self.len);
        }
    }
}

/// # Safety
/// `base` is the base of a live arena.
unsafe fn alloc(base: *mut u8, payload: usize) -> *mut u8 {
    // SAFETY: the header is at the base; free lists hold only offsets of freed chunks of their class; `top` is checked.
    unsafe {
        let header = base.cast::<Header>();
        let class = match class_of(payload) {
            Some(class) if (*header).live + chunk_bytes(class) <= (*header).live_max => class,
            _ => return refuse(header),
        };
        let list = &mut (*header).free[class];
        if *list != 0 {
            let chunk = base.add(*list);
            *list = chunk.add(CHUNK_HEADER_BYTES).cast::<usize>().read();
            (*header).live += chunk_bytes(class);
            return chunk.add(CHUNK_HEADER_BYTES);
        }
        let start = (*header).top;
        let end = start + chunk_bytes(class);
        if end > (*header).len {
            return refuse(header);
        }
        (*header).top = end;
        (*header).top_max = (*header).top_max.max(end);
        (*header).live += chunk_bytes(class);
        let chunk = base.add(start);
        chunk.cast::<usize>().write(class);
        chunk.add(CHUNK_HEADER_BYTES)
    }
}

/// # Safety
/// `header` is that of a live arena.
unsafe fn refuse(header: *mut Header) -> *mut u8 {
    // SAFETY: see above.
    unsafe { (*header).has_refused = true };
    ptr::null_mut()
}

/// # Safety
/// `base` is the base of a live arena and `payload` came from [`alloc`] on it and was not freed since.
unsafe fn free(base: *mut u8, payload: *mut u8) {
    // SAFETY: see above; the chunk's header precedes the payload.
    unsafe {
        let header = base.cast::<Header>();
        let chunk = payload.sub(CHUNK_HEADER_BYTES);
        let class = chunk.cast::<usize>().read();
        let start = chunk.offset_from_unsigned(base);
        (*header).live -= chunk_bytes(class);
        if start + chunk_bytes(class) == (*header).top {
            (*header).top = start;
            return;
        }
        let list = &mut (*header).free[class];
        payload.cast::<usize>().write(*list);
        *list = start;
    }
}

/// # Safety
/// As for [`free`].
unsafe fn realloc(base: *mut u8, payload: *mut u8, wanted: usize) -> *mut u8 {
    // SAFETY: see above; growth in place happens only for the topmost chunk, within the arena.
    unsafe {
        let header = base.cast::<Header>();
        let chunk = payload.sub(CHUNK_HEADER_BYTES);
        let old_class = chunk.cast::<usize>().read();
        let old_bytes = chunk_bytes(old_class);
        let Some(new_class) = class_of(wanted) else { return refuse(header) };
        let new_bytes = chunk_bytes(new_class);
        let start = chunk.offset_from_unsigned(base);
        if start + old_bytes == (*header).top {
            let end = start + new_bytes;
            let live = (*header).live - old_bytes + new_bytes;
            if end > (*header).len || live > (*header).live_max {
                return refuse(header);
            }
            (*header).live = live;
            (*header).top = end;
            (*header).top_max = (*header).top_max.max(end);
            chunk.cast::<usize>().write(new_class);
            return payload;
        }
        if new_bytes <= old_bytes && new_bytes * 2 > old_bytes {
            return payload;
        }
        let moved = alloc(base, wanted);
        if !moved.is_null() {
            ptr::copy_nonoverlapping(payload, moved, old_bytes.min(new_bytes) - CHUNK_HEADER_BYTES);
            free(base, payload);
        }
        moved
    }
}

unsafe extern "C" fn js_calloc(opaque: *mut c_void, count: qjs::size_t, size: qjs::size_t) -> *mut c_void {
    let Some(bytes) = (count as usize).checked_mul(size as usize) else { return ptr::null_mut() };
    // SAFETY: QuickJS passes back the base it was given; the new payload holds `bytes` bytes.
    unsafe {
        let payload = alloc(opaque.cast(), bytes);
        if !payload.is_null() {
            ptr::write_bytes(payload, 0, bytes);
        }
        payload.cast()
    }
}

unsafe extern "C" fn js_malloc(opaque: *mut c_void, size: qjs::size_t) -> *mut c_void {
    // SAFETY: QuickJS passes back the base it was given.
    unsafe { alloc(opaque.cast(), size as usize).cast() }
}

unsafe extern "C" fn js_free(opaque: *mut c_void, payload: *mut c_void) {
    if !payload.is_null() {
        // SAFETY: QuickJS frees what it got from us, once.
        unsafe { free(opaque.cast(), payload.cast()) }
    }
}

unsafe extern "C" fn js_realloc(opaque: *mut c_void, payload: *mut c_void, size: qjs::size_t) -> *mut c_void {
    // SAFETY: QuickJS reallocates what it got from us.
    unsafe {
        if payload.is_null() {
            return alloc(opaque.cast(), size as usize).cast();
        }
        if size == 0 {
            free(opaque.cast(), payload.cast());
            return ptr::null_mut();
        }
        realloc(opaque.cast(), payload.cast(), size as usize).cast()
    }
}

unsafe extern "C" fn js_malloc_usable_size(payload: *const c_void) -> qjs::size_t {
    if payload.is_null() {
        return 0;
    }
    // SAFETY: the chunk's header precedes every payload of ours.
    let class = unsafe { payload.cast::<u8>().sub(CHUNK_HEADER_BYTES).cast::<usize>().read() };
    (chunk_bytes(class) - CHUNK_HEADER_BYTES) as qjs::size_t
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for payload in (0..5_000).chain([65_535, 65_536, 1 << 20, (1 << 24) + 1]) {
            let class = class_of(payload).unwrap();
            assert!(chunk_bytes(class) >= payload + CHUNK_HEADER_BYTES, "{payload}");
            assert_eq!(chunk_bytes(class) % ALIGN, 0);
            if class > 1 {
                assert!(chunk_bytes(class - 1) < payload + CHUNK_HEADER_BYTES, "{payload} would fit a smaller one");
            }
        }
        assert_eq!(class_of(usize::MAX), None);
    }

    #[test]
    fn a_full_arena_answers_null_and_still_serves_what_fits() {
        let arena = Arena::new(1 << 20, usize::MAX / 2).unwrap();
        unsafe {
            assert!(alloc(arena.base, 2 << 20).is_null());
            let a = alloc(arena.base, 600_000);
            assert!(!a.is_null());
            assert!(alloc(arena.base, 600_000).is_null());
            free(arena.base, a);
            assert!(!alloc(arena.base, 600_000).is_null());
        }
    }

    #[test]
    fn the_limit_is_on_what_is_in_use_at_a_time() {
        let arena = Arena::new(8 << 20, 100_000).unwrap();
        unsafe {
            for _ in 0..50 {
                let a = alloc(arena.base, 60_000);
                assert!(!a.is_null() && !arena.has_refused());
                let b = alloc(arena.base, 60_000);
                assert!(b.is_null() && arena.has_refused());
                free(arena.base, a);
                (*arena.header()).has_refused = false;
            }
            let a = alloc(arena.base, 40_000);
            assert!(!realloc(arena.base, a, 90_000).is_null());
        }
    }

    #[test]
    fn restoring_an_image_undoes_every_later_write_and_allocation() {
        let arena = Arena::new(1 << 20, usize::MAX / 2).unwrap();
        unsafe {
            let kept = alloc(arena.base, 100);
            kept.write_bytes(7, 100);
            let image = arena.image();
            kept.write_bytes(9, 100);
            let later = alloc(arena.base, 50_000);
            later.write_bytes(1, 50_000);
            free(arena.base, kept);
            arena.restore(&image);
            assert_eq!(std::slice::from_raw_parts(kept, 100), [7; 100]);
            assert_eq!(&*arena.image().0, &*image.0);
        }
    }

    proptest! {
        /// Against a naive model: live blocks never overlap, keep their content, and are aligned.
        #[test]
        fn blocks_never_overlap_and_keep_their_content(ops in prop::collection::vec((0u8..3, 0usize..40, 1usize..6_000), 1..200)) {
            let arena = Arena::new(4 << 20, usize::MAX / 2).unwrap();
            let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
            let mut tag = 0u8;
            for (op, pick, size) in ops {
                unsafe {
                    if op == 0 || live.is_empty() {
                        let p = js_malloc(arena.base.cast(), size as _).cast::<u8>();
                        if p.is_null() { continue; }
                        tag = tag.wrapping_add(1);
                        p.write_bytes(tag, size);
                        live.push((p, size, tag));
                    } else {
                        let at = pick % live.len();
                        let (p, old, t) = live.swap_remove(at);
                        if op == 1 {
                            js_free(arena.base.cast(), p.cast());
                        } else {
                            let q = js_realloc(arena.base.cast(), p.cast(), size as _).cast::<u8>();
                            if q.is_null() { live.push((p, old, t)); continue; }
                            prop_assert!(std::slice::from_raw_parts(q, old.min(size)).iter().all(|b| *b == t));
                            q.write_bytes(t, size);
                            live.push((q, size, t));
                        }
                    }
                    for (p, size, t) in &live {
                        prop_assert_eq!(*p as usize % ALIGN, 0);
                        prop_assert!(js_malloc_usable_size(p.cast()) as usize >= *size);
                        prop_assert!(std::slice::from_raw_parts(*p, *size).iter().all(|b| b == t));
                    }
                }
            }
        }
    }
}
