//! What this thread may do with the pages of the two keys.

// UNSAFETY: writes the register of rights.
#![expect(unsafe_code, reason = "writes the register of rights")]

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use super::{Bits, KEYS, Zone, register};
use crate::os::{self, Access};

/// What the guards of one thread ask for.
///
/// A signal handler may open and close between any two steps here: it leaves the counts as it found them and
/// `granted` as the counts say, and the kernel puts the register back when it returns.
struct Held {
    isolated: Asked,
    dense: Asked,
    /// The bits of the register that are not set, of those that are ours: what the counts say.
    granted: Cell<u32>,
}

/// How many guards ask for what in one zone.
struct Asked {
    readers: Cell<u32>,
    writers: Cell<u32>,
}

thread_local! {
    /// Without a destructor: usable at any time, also in the destructors of other thread-locals.
    static HELD: Held = const {
        Held { isolated: Asked::none(), dense: Asked::none(), granted: Cell::new(0) }
    };
}

impl Asked {
    const fn none() -> Self {
        Self { readers: Cell::new(0), writers: Cell::new(0) }
    }

    #[inline(always)]
    const fn count(&self, access: Access) -> &Cell<u32> {
        match access {
            Access::ReadWrite => &self.writers,
            Access::Read | Access::None => &self.readers,
        }
    }
}

impl Held {
    #[inline(always)]
    const fn of(&self, zone: Zone) -> &Asked {
        match zone {
            Zone::Isolated => &self.isolated,
            Zone::Dense => &self.dense,
        }
    }

    /// Notes what the guards in a zone ask for now, and writes it to the register.
    #[inline(always)]
    fn grant(&self, zone: Zone) {
        // Relaxed: whoever holds memory of a key got it by a way that orders the taking of the key.
        let bits = Bits::from_word(KEYS.load(Ordering::Relaxed));
        let asked = self.of(zone);
        let wanted = if asked.writers.get() != 0 {
            bits.of(zone)
        } else if asked.readers.get() != 0 {
            bits.of(zone) & Bits::ACCESS
        } else {
            0
        };
        self.granted.set(self.granted.get() & !bits.of(zone) | wanted);
        self.enforce(bits);
    }

    /// Writes the register: ours as granted, the rest as it was.
    #[inline(always)]
    fn enforce(&self, bits: Bits) {
        // SAFETY: there are keys, since there is something to open; a right is only taken away when the last guard
        // that asked for it ends.
        unsafe { register::change(bits.both(), self.granted.get()) };
    }
}

/// What the guards of this thread ask for.
///
/// Not by working inside of `with`: its closure is compiled once for all callers, who would hand it zone and access
/// by memory and pay for a call; constant, they leave a third of the instructions.
#[inline(always)]
fn held<'a>() -> &'a Held {
    let held = HELD.with(core::ptr::from_ref);
    // SAFETY: a thread-local without a destructor stays where it is until its thread ends, and references to it
    // cannot leave the thread, since `Held` is not `Sync`; none is kept beyond the functions of this file.
    unsafe { &*held }
}

/// Gives this thread a right, until [`lower`] is called as often as this.
///
/// The process has its keys: only memory that has one is opened.
#[inline(always)]
pub(crate) fn raise(zone: Zone, access: Access) {
    let held = held();
    let count = held.of(zone).count(access);
    match count.get().checked_add(1) {
        Some(more) => count.set(more),
        None => os::abort_with("too many guards on sealed secrets in one thread"),
    }
    held.grant(zone);
}

/// Takes back what [`raise`] gave, on the same thread.
#[inline(always)]
pub(crate) fn lower(zone: Zone, access: Access) {
    let held = held();
    let count = held.of(zone).count(access);
    count.set(count.get().wrapping_sub(1));
    held.grant(zone);
}

/// Takes every right away that this thread has without a guard of its own.
pub(crate) fn forget_inherited() {
    if super::are_in_use() {
        held().enforce(Bits::from_word(KEYS.load(Ordering::Relaxed)));
    }
}

/// A right that ends with this value. Belongs to the thread that made it.
#[must_use = "the right ends with this"]
#[derive(Debug)]
pub(crate) struct Rights {
    zone: Zone,
    access: Access,
    _of_this_thread: PhantomData<*const ()>,
}

impl Rights {
    /// As for [`raise`].
    #[inline(always)]
    pub(crate) fn new(zone: Zone, access: Access) -> Self {
        raise(zone, access);
        Self { zone, access, _of_this_thread: PhantomData }
    }
}

impl Drop for Rights {
    #[inline(always)]
    fn drop(&mut self) {
        lower(self.zone, self.access);
    }
}

/// All rights to all our keys, for code of this crate that works on secrets while no code of others runs. Ends
/// with what there was before. Costs one load where no key is in use. Uses nothing but the register, so it works
/// in a signal handler at any time.
#[must_use = "the rights end with this"]
#[derive(Debug)]
pub(crate) struct AllRights {
    before: Option<u32>,
    _of_this_thread: PhantomData<*const ()>,
}

impl AllRights {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // Relaxed: as in `Held::grant`.
        let word = KEYS.load(Ordering::Relaxed);
        let before = if word == 0 { None } else { Some(Self::take(Bits::from_word(word))) };
        Self { before, _of_this_thread: PhantomData }
    }

    #[inline(always)]
    fn take(bits: Bits) -> u32 {
        // SAFETY: there are keys.
        let before = unsafe { register::read() };
        // SAFETY: as above; takes no right away.
        unsafe { register::write(before & !bits.both()) };
        before
    }
}

impl Drop for AllRights {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: there are keys; what guards of this thread ask for was in force before.
            unsafe { register::write(before) };
        }
    }
}

/// What the register allows for a zone: all, while the process has no keys.
#[cfg(feature = "fault-injection")]
pub(crate) fn granted(zone: Zone) -> Access {
    let bits = Bits::from_word(KEYS.load(Ordering::Relaxed)).of(zone);
    if bits == 0 {
        return Access::ReadWrite;
    }
    // SAFETY: there are keys.
    let set = unsafe { register::read() } & bits;
    match (set & Bits::ACCESS, set & !Bits::ACCESS) {
        (0, 0) => Access::ReadWrite,
        (0, _) => Access::Read,
        _ => Access::None,
    }
}
