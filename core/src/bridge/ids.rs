//! Handles as integers: kind, runtime, generation and slot in one `u64`, looked up and never dereferenced.
//!
//! A stale, foreign or twice-freed id is therefore an error code. An id is never given out twice in a process: a slot
//! whose generations are used up is not used again, and neither is the number of a runtime.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Code, Error, Result};

/// What an id names; its highest four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Queue = 1,
    Client = 2,
    Node = 3,
    Directory = 4,
    Operation = 5,
    Task = 6,
    Runtime = 7,
}

const RUNTIME_BITS: u32 = 16;
const GENERATION_BITS: u32 = 20;
const SLOT_BITS: u32 = 24;
const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;
const LAST_SLOT: u32 = (1 << SLOT_BITS) - 1;

/// A number that no other runtime of this process has or will have.
///
/// # Errors
/// `INTERNAL` when all are used up.
pub(super) fn new_runtime() -> Result<u16> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let next = LAST.fetch_update(Relaxed, Relaxed, |last| (last < u32::from(u16::MAX)).then_some(last + 1));
    let next = next.ok().and_then(|last| u16::try_from(last + 1).ok());
    next.ok_or_else(|| Error::new(Code::Internal, "this process made 65,535 runtimes; keep one and use it again"))
}

/// The id of the runtime that gave out an id.
pub(super) fn runtime_of(id: u64) -> u64 {
    // What is left between kind and generation.
    #[allow(clippy::cast_possible_truncation)]
    let runtime = (id >> (GENERATION_BITS + SLOT_BITS)) as u16;
    Kind::Runtime.id(runtime, 0, 0)
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Queue, Kind::Client, Kind::Node, Kind::Directory, Kind::Operation, Kind::Task, Kind::Runtime];

    const fn name(self) -> &'static str {
        match self {
            Kind::Queue => "queue",
            Kind::Client => "client",
            Kind::Node => "node",
            Kind::Directory => "directory",
            Kind::Operation => "operation",
            Kind::Task => "task",
            Kind::Runtime => "runtime",
        }
    }

    pub(super) fn id(self, runtime: u16, generation: u32, slot: u32) -> u64 {
        (self as u64) << (RUNTIME_BITS + GENERATION_BITS + SLOT_BITS)
            | u64::from(runtime) << (GENERATION_BITS + SLOT_BITS)
            | u64::from(generation) << SLOT_BITS
            | u64::from(slot)
    }

    fn of(id: u64) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u64 == id >> (RUNTIME_BITS + GENERATION_BITS + SLOT_BITS))
    }

    fn stale(self, id: u64) -> Error {
        let what = self.name();
        let message = match Kind::of(id) {
            Some(Kind::Operation) if self == Kind::Operation => {
                format!("operation {id:#018x} has ended; its DONE is in the queue or was taken")
            }
            Some(Kind::Task) if self == Kind::Task => {
                format!("task {id:#018x} needs no answer any more; it was answered, or its TASK_CANCEL was sent")
            }
            Some(kind) if kind == self => format!("{what} {id:#018x} was closed; drop the id, or make a new {what}"),
            Some(kind) => {
                format!("{id:#018x} is the id of a {}, not of a {what}; pass the id of a {what}", kind.name())
            }
            None => format!("{id:#018x} is no id that was ever given out; pass the id of a {what}"),
        };
        Error::new(Code::StaleId, message)
    }
}

/// Everything of one kind that is alive.
pub(super) struct Table<T> {
    kind: Kind,
    runtime: u16,
    slots: Mutex<Slots<T>>,
}

struct Slots<T> {
    all: Vec<Slot<T>>,
    free: Vec<u32>,
    closed: bool,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(super) fn new(kind: Kind, runtime: u16) -> Self {
        Table { kind, runtime, slots: Mutex::new(Slots { all: Vec::new(), free: Vec::new(), closed: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Slots<T>> {
        // Nothing that can unwind runs under the lock half-way through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new value an id, which it may keep.
    ///
    /// # Errors
    /// `CLOSED` after [`Table::close`].
    pub(super) fn insert(&self, make: impl FnOnce(u64) -> T) -> Result<u64> {
        let mut slots = self.lock();
        if slots.closed {
            return Err(closed());
        }
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(slots.all.len()).ok().filter(|slot| *slot <= LAST_SLOT);
                let slot =
                    slot.ok_or_else(|| Error::new(Code::Internal, "all ids are used up; restart the process"))?;
                slots.all.push(Slot { generation: 0, value: None });
                slot
            }
        };
        let place = &mut slots.all[slot as usize];
        place.generation += 1;
        let id = self.kind.id(self.runtime, place.generation, slot);
        place.value = Some(make(id));
        Ok(id)
    }

    /// Takes a value out: exactly one of several that try gets it.
    ///
    /// # Errors
    /// `STALE_ID`.
    pub(super) fn remove(&self, id: u64) -> Result<T> {
        let mut slots = self.lock();
        let slot = self.find(&slots, id)?;
        let place = &mut slots.all[slot as usize];
        let value = place.value.take();
        if place.generation < LAST_GENERATION {
            slots.free.push(slot);
        }
        value.ok_or_else(|| self.kind.stale(id))
    }

    fn find(&self, slots: &Slots<T>, id: u64) -> Result<u32> {
        // The lowest bits.
        #[allow(clippy::cast_possible_truncation)]
        let slot = id as u32 & LAST_SLOT;
        match slots.all.get(slot as usize) {
            Some(place) if place.value.is_some() && self.kind.id(self.runtime, place.generation, slot) == id => {
                Ok(slot)
            }
            _ => Err(self.kind.stale(id)),
        }
    }

    /// Lets nothing in any more; what is there stays.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Takes out what meets a condition.
    pub(super) fn take(&self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut slots = self.lock();
        let Slots { all, free, .. } = &mut *slots;
        let mut taken = Vec::new();
        for (slot, place) in (0_u32..).zip(all) {
            if let Some(value) = place.value.take_if(|value| wanted(value)) {
                taken.push(value);
                if place.generation < LAST_GENERATION {
                    free.push(slot);
                }
            }
        }
        taken
    }

    /// Looks an id up and reads from what it names, under the table's lock.
    ///
    /// # Errors
    /// `STALE_ID`.
    pub(super) fn read<R>(&self, id: u64, read: impl FnOnce(&T) -> R) -> Result<R> {
        let slots = self.lock();
        let slot = self.find(&slots, id)?;
        slots.all[slot as usize].value.as_ref().map(read).ok_or_else(|| self.kind.stale(id))
    }

    pub(super) fn len(&self) -> usize {
        self.lock().all.iter().filter(|place| place.value.is_some()).count()
    }
}

impl<T: Clone> Table<T> {
    /// Looks an id up.
    ///
    /// # Errors
    /// `STALE_ID`.
    pub(super) fn get(&self, id: u64) -> Result<T> {
        self.read(id, T::clone)
    }

    /// Everything that is alive now and meets a condition.
    pub(super) fn select(&self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        self.lock().all.iter().filter_map(|place| place.value.as_ref()).filter(|value| wanted(value)).cloned().collect()
    }
}

/// What everything says after shutdown.
pub(super) fn closed() -> Error {
    Error::new(Code::Closed, "the runtime was shut down; make a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T>) -> Code {
        result.err().map_or(Code::Ok, |e| e.code())
    }

    #[test]
    fn a_stale_foreign_or_twice_freed_id_is_a_code() {
        let (queues, clients) = (Table::new(Kind::Queue, 1), Table::new(Kind::Client, 1));
        let queue = queues.insert(|_| "queue").unwrap();
        let client = clients.insert(|_| "client").unwrap();
        assert_eq!(queues.get(queue).unwrap(), "queue");
        assert_eq!(code(queues.get(client)), Code::StaleId, "foreign kind, same slot");
        assert_eq!(queues.remove(queue).unwrap(), "queue");
        assert_eq!(code(queues.remove(queue)), Code::StaleId, "freed twice");
        let reused = queues.insert(|_| "other").unwrap();
        assert_ne!(reused, queue);
        assert_eq!(code(queues.get(queue)), Code::StaleId, "the slot lives on, the id does not");
        for never in [0, 1, u64::MAX, reused + 1, reused ^ (1 << 63)] {
            assert_eq!(code(queues.get(never)), Code::StaleId, "{never:#x}");
            assert_eq!(code(queues.remove(never)), Code::StaleId, "{never:#x}");
        }
        assert_eq!((queues.len(), clients.len()), (1, 1));
    }

    #[test]
    fn an_id_means_nothing_to_another_runtime() {
        let (ours, theirs) = (new_runtime().unwrap(), new_runtime().unwrap());
        assert_ne!(ours, theirs);
        let (queues, others) = (Table::new(Kind::Queue, ours), Table::new(Kind::Queue, theirs));
        let (queue, other) = (queues.insert(|_| ()).unwrap(), others.insert(|_| ()).unwrap());
        assert_eq!(code(queues.get(other)), Code::StaleId, "same kind, slot and generation");
        assert_eq!(runtime_of(queue), Kind::Runtime.id(ours, 0, 0));
        assert_eq!(runtime_of(other), Kind::Runtime.id(theirs, 0, 0));
        assert_eq!(runtime_of(runtime_of(queue)), runtime_of(queue));
    }

    #[test]
    fn a_slot_is_retired_before_an_id_repeats() {
        let table = Table::new(Kind::Operation, 1);
        let first = table.insert(|id| id).unwrap();
        table.remove(first).unwrap();
        table.lock().all[0].generation = LAST_GENERATION - 1;
        let last = table.insert(|id| id).unwrap();
        assert_eq!(last >> SLOT_BITS & u64::from(LAST_GENERATION), u64::from(LAST_GENERATION));
        table.remove(last).unwrap();
        let next = table.insert(|id| id).unwrap();
        assert_eq!(table.lock().all.len(), 2, "a new slot was taken");
        assert_ne!(next, first);
        assert_eq!(table.take(|_| true), vec![next]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_closed_table_gives_no_ids_but_still_finds_them() {
        let table = Table::new(Kind::Task, 1);
        let id = table.insert(|id| id).unwrap();
        table.close();
        assert_eq!(code(table.insert(|id| id)), Code::Closed);
        assert_eq!(table.get(id).unwrap(), id);
    }

    #[test]
    fn exactly_one_of_many_threads_takes_a_value_out() {
        let table = Table::new(Kind::Operation, 1);
        for _ in 0..200 {
            let id = table.insert(|id| id).unwrap();
            let takers = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| table.remove(id).is_ok())).collect();
                takers.into_iter().map(|taker| usize::from(taker.join().unwrap())).sum::<usize>()
            });
            assert_eq!(takers, 1);
        }
    }
}
