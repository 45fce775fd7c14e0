//! Pins: ranges of memory that the kernel does not move, in as many tables as it takes.
//!
//! ```text
//! table 0    1,024 slots     each: a state word (owner process, phase),
//! table 1    4,096 slots           the name of an os::Ring,
//! table 2   16,384 slots           a bitmap of the slots taken
//!   ...
//! table 7   16,384 slots
//! ```
//!
//! A table's ring is made when the tables before it are full, since its cost grows with its slots (20 µs for
//! 1,024, 220 µs for 16,384, Linux 6.18). One whose descriptor somebody closed is never used again in this
//! process. A child made by fork finds its parent's tables, but no page of its own is pinned by them, so it
//! makes rings of its own in their place, and to end an inherited pin there does nothing.

// UNSAFETY: asks the kernel to pin memory that the caller names by address.
#![expect(unsafe_code, reason = "forwards raw addresses to the os contract, see UNSAFETY above")]

use core::hint::spin_loop;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::slot_map;
use crate::os::{self, Errno, Ring};

/// The most slots that a ring can have (`IORING_MAX_REG_BUFFERS` of the kernel).
const MOST_SLOTS: u32 = 16_384;
/// Slots of each table.
const SLOTS: [u32; 8] = [1024, 4096, MOST_SLOTS, MOST_SLOTS, MOST_SLOTS, MOST_SLOTS, MOST_SLOTS, MOST_SLOTS];
/// Words of a bitmap.
const WORDS: usize = 256;
/// How often to look whether another thread has made its ring, before going on to the next table.
const PATIENCE: u32 = 4096;

const _: () = assert!(MOST_SLOTS.div_ceil(u64::BITS) == 256 && WORDS == 256, "a bit for every slot");
const _: () = assert!(MOST_SLOTS <= 1 << PinId::SLOT_BITS, "a slot fits in a PinId");

/// The pins of this process.
static PINS: Pins = Pins::new();

/// The pins of this process: one set of tables, since each costs a descriptor.
pub(crate) fn pins() -> &'static Pins {
    &PINS
}

/// Tables of pinned ranges.
#[derive(Debug)]
pub(crate) struct Pins {
    tables: [Table; SLOTS.len()],
}

impl Pins {
    /// Nothing pinned, no ring made.
    pub(crate) const fn new() -> Self {
        Self { tables: [const { Table::new() }; SLOTS.len()] }
    }

    /// Pins a range of at most 1 GiB and faults its pages in, which must all be readable and writable. Fails
    /// with what [`Ring::new`] or [`Ring::register`] says, or with `NOSPC` once every table is full or lost.
    ///
    /// # Safety
    ///
    /// - The whole range came from [`os::reserve`] and is not released before [`unpin`](Self::unpin).
    pub(crate) unsafe fn pin(&self, ptr: NonNull<u8>, len: usize) -> Result<PinId, Errno> {
        let owner = os::incarnation();
        for (index, (table, slots)) in (0..).zip(self.tables.iter().zip(SLOTS)) {
            let Some(ring) = table.ring(owner, slots)? else { continue };
            let Some(slot) = slot_map::claim(&table.taken, slots) else { continue };
            // SAFETY: the caller promises that the range is its own. The slot is empty: it was claimed just
            // now, and a slot is emptied before it is released.
            match unsafe { ring.register(slot, ptr, len) } {
                Ok(()) => return PinId::new(owner, index, slot).ok_or(Errno::INVAL),
                // Somebody closed the ring.
                Err(Errno::BADF) => table.lose(owner),
                Err(errno) => {
                    slot_map::release(&table.taken, slot);
                    return Err(errno);
                }
            }
        }
        Err(Errno::NOSPC)
    }

    /// Ends a pin. In a child that inherited it, and where the ring was closed, there is none to end. After
    /// an error the range is still pinned.
    pub(crate) fn unpin(&self, id: PinId) -> Result<(), Errno> {
        let Some((table, ring)) = self.find(&id) else { return Ok(()) };
        match ring.unregister(id.slot()) {
            Ok(()) => slot_map::release(&table.taken, id.slot()),
            Err(Errno::BADF) => table.lose(id.owner()),
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Whether this range is pinned at the moment.
    pub(crate) fn holds(&self, id: &PinId) -> bool {
        self.find(id).is_some_and(|(_, ring)| ring.is_alive())
    }

    /// Whether every pin that this process made, and did not end, holds: `false` once a descriptor was closed
    /// behind our back.
    pub(crate) fn is_alive(&self) -> bool {
        let owner = os::incarnation();
        self.tables.iter().all(|table| match table.state() {
            State { owner: maker, phase: Phase::Ready } if maker == owner => {
                let alive = table.name(owner).is_alive();
                if !alive {
                    table.lose(owner);
                }
                alive
            }
            State { owner: maker, phase: Phase::Lost } => maker != owner,
            _ => true,
        })
    }

    /// The number of ranges pinned.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        let ready = State { owner: os::incarnation(), phase: Phase::Ready };
        let tables = self.tables.iter().filter(|table| table.state() == ready);
        tables.map(|table| slot_map::count(&table.taken)).fold(0, u32::saturating_add)
    }

    /// The table of a pin and its ring, unless it was inherited or lost.
    fn find(&self, id: &PinId) -> Option<(&Table, Ring)> {
        let table = self.tables.get(id.table())?;
        let ready = State { owner: id.owner(), phase: Phase::Ready };
        if id.owner() == os::incarnation() && table.state() == ready {
            Some((table, table.name(id.owner())))
        } else {
            None
        }
    }
}

/// One pinned range. It fits in a word of a side table.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without it the range stays pinned"]
pub(crate) struct PinId(NonZeroU64);

impl PinId {
    /// Bits for the slot; the table's index follows, and the owner is the upper half.
    const SLOT_BITS: u32 = 16;

    fn new(owner: u32, table: u8, slot: u32) -> Option<Self> {
        let place = (u64::from(table) << Self::SLOT_BITS) | u64::from(slot);
        NonZeroU64::new((u64::from(owner) << 32) | place).map(Self)
    }

    /// The pin as a word, to be kept in some other form.
    pub(crate) const fn into_bits(self) -> NonZeroU64 {
        self.0
    }

    /// The inverse of [`into_bits`](Self::into_bits).
    pub(crate) const fn from_bits(bits: NonZeroU64) -> Self {
        Self(bits)
    }

    #[expect(clippy::as_conversions, reason = "takes the upper half")]
    const fn owner(&self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    #[expect(clippy::as_conversions, reason = "takes 16 bits")]
    const fn table(&self) -> usize {
        (self.0.get() as u32 >> Self::SLOT_BITS) as usize
    }

    #[expect(clippy::as_conversions, reason = "takes 16 bits")]
    const fn slot(&self) -> u32 {
        self.0.get() as u16 as u32
    }
}

/// A ring, and which of its slots are taken.
///
/// # Invariants
///
/// 1. A slot whose bit in `taken` is clear is empty in the ring.
/// 2. While the phase is `Building`, only the thread that made it so touches the other fields; once it is
///    `Ready`, the name does not change as long as the process lives.
#[derive(Debug)]
struct Table {
    state: AtomicU64,
    descriptor: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
    taken: [AtomicU64; WORDS],
}

impl Table {
    const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            descriptor: AtomicI32::new(-1),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            taken: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// The ring of this process, made now if there is none; nothing if it is lost, or if another thread takes
    /// long to make it.
    fn ring(&self, owner: u32, slots: u32) -> Result<Option<Ring>, Errno> {
        for _ in 0..PATIENCE {
            let state = self.state();
            if state.owner == owner {
                match state.phase {
                    Phase::Ready => return Ok(Some(self.name(owner))),
                    Phase::Lost => return Ok(None),
                    Phase::Building => spin_loop(),
                    Phase::Empty => {}
                }
            }
            if (state.owner != owner || state.phase == Phase::Empty) && self.start_building(state, owner) {
                return self.build(state, owner, slots).map(Some);
            }
        }
        Ok(None)
    }

    /// Makes the ring, in place of the parent's if this is a child made by fork.
    #[cold]
    fn build(&self, before: State, owner: u32, slots: u32) -> Result<Ring, Errno> {
        if before.phase == Phase::Ready {
            // This process's copy of the descriptor would keep the parent's pins beyond the parent's end.
            self.name(before.owner).close();
        }
        slot_map::clear(&self.taken);
        let ring = Ring::new(slots).inspect_err(|_| self.publish(State::EMPTY))?;
        // Relaxed: made known by `publish`.
        self.descriptor.store(ring.descriptor, Ordering::Relaxed);
        self.device.store(ring.device, Ordering::Relaxed);
        self.inode.store(ring.inode, Ordering::Relaxed);
        self.publish(State { owner, phase: Phase::Ready });
        Ok(ring)
    }

    /// The name of the ring; only meaningful after `state` said `Ready`.
    fn name(&self, owner: u32) -> Ring {
        Ring {
            owner,
            // Relaxed: ordered by the load of the state before.
            descriptor: self.descriptor.load(Ordering::Relaxed),
            device: self.device.load(Ordering::Relaxed),
            inode: self.inode.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> State {
        // Acquire pairs with Release in `publish`.
        State::from_bits(self.state.load(Ordering::Acquire))
    }

    fn publish(&self, state: State) {
        // Release pairs with Acquire in `state`: the name and the cleared bitmap are seen with it.
        self.state.store(state.to_bits(), Ordering::Release);
    }

    /// Whether this thread is the one to make the ring.
    fn start_building(&self, from: State, owner: u32) -> bool {
        let to = State { owner, phase: Phase::Building };
        // Acquire pairs with Release in `publish`: what an earlier attempt left is seen.
        let order = Ordering::Acquire;
        self.state.compare_exchange(from.to_bits(), to.to_bits(), order, Ordering::Relaxed).is_ok()
    }

    /// Notes that the ring is gone, and with it all its pins.
    #[cold]
    fn lose(&self, owner: u32) {
        let ready = State { owner, phase: Phase::Ready };
        let lost = State { owner, phase: Phase::Lost };
        // Relaxed: nothing else is read on account of it. If the state is another by now, it is lost already.
        let order = Ordering::Relaxed;
        let _ = self.state.compare_exchange(ready.to_bits(), lost.to_bits(), order, order);
    }
}

/// Who made a table's ring, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    owner: u32,
    phase: Phase,
}

/// How far a table's ring is, for the process that owns it. For any other the table is as good as empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Empty,
    /// A thread is making it.
    Building,
    /// It is there.
    Ready,
    /// Somebody closed it.
    Lost,
}

impl State {
    const EMPTY: Self = Self { owner: 0, phase: Phase::Empty };

    fn to_bits(self) -> u64 {
        let phase = match self.phase {
            Phase::Empty => 0,
            Phase::Building => 1,
            Phase::Ready => 2,
            Phase::Lost => 3,
        };
        (u64::from(self.owner) << 32) | phase
    }

    #[expect(clippy::as_conversions, reason = "takes the upper half")]
    const fn from_bits(bits: u64) -> Self {
        let phase = match bits & 3 {
            0 => Phase::Empty,
            1 => Phase::Building,
            2 => Phase::Ready,
            _ => Phase::Lost,
        };
        Self { owner: (bits >> 32) as u32, phase }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
