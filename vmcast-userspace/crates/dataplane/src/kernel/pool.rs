//! Member tables (inner devmaps) made in advance.
//!
//! Putting a map into a map of maps waits for every CPU to have left the old one: 8 to 16 ms. A
//! join must not wait for that, so a thread keeps a stock of empty tables of each size. It also
//! takes tables out that are no longer used: what they leave behind may be used again after that
//! same wait, because nobody can still be walking them then. A table that frames before a relay device
//! may name stays until these have come through ([`Until`]).

use std::{
    collections::VecDeque,
    os::fd::AsFd as _,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread::JoinHandle,
};

use aya::{
    maps::{DevMap, Map, MapData},
    programs::ProgramFd,
};
use vmcast_common::maps::{HeadKey, limit};

use super::{error::KernelError, filler::Filler, member_table::WAYS, outer::OuterMap, sys};

/// Slots of the tables that are kept in stock: an empty slot costs a packet time too.
pub(super) const SIZES: [u32; 6] = [4, 8, 16, 32, 64, 128];
const _: () = assert!(SIZES[SIZES.len() - 1] >= limit::CHUNK + WAYS);
/// How many of each size are in stock at first.
const FIRST_STOCK: [usize; SIZES.len()] = [64, 32, 16, 8, 8, 8];
/// Largest stock of a size; it doubles each time it is found empty.
const MAX_STOCK: usize = 1024;

/// The devmap of a table.
#[derive(Debug)]
pub(super) enum Devmap {
    /// The kernel's number of the map. The map of maps holds it, so no descriptor is kept: streams
    /// are many, and peers decide how many.
    Numbered(u32),
    /// A descriptor, where the kernel does not open maps by number.
    Held(Map),
}

impl Devmap {
    /// Opens it for one change.
    fn change<R>(
        &mut self,
        change: impl FnOnce(&mut Map) -> Result<R, KernelError>,
    ) -> Result<R, KernelError> {
        match self {
            Self::Numbered(id) => {
                let data = MapData::from_id(*id).map_err(KernelError::call("opening a devmap"))?;
                change(&mut Map::DevMap(data))
            }
            Self::Held(map) => change(map),
        }
    }
}

/// A member table that one stream owns.
#[derive(Debug)]
pub(super) struct TableLease {
    id: u32,
    size: usize,
    /// `None` only in the model of the kernel.
    devmap: Option<Devmap>,
}

impl TableLease {
    pub(super) const fn new(id: u32, size: usize, devmap: Option<Devmap>) -> Self {
        Self { id, size, devmap }
    }

    /// Its number, never 0.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// How many slots it has.
    pub(super) const fn slots(&self) -> u32 {
        SIZES[self.size]
    }

    pub(super) fn write_slot(
        &mut self,
        slot: u32,
        ifindex: u32,
        program: Option<&ProgramFd>,
    ) -> Result<(), KernelError> {
        let what = "writing a devmap slot";
        let Some(devmap) = self.devmap.as_mut() else {
            return Ok(());
        };
        devmap.change(|map| {
            let mut devices = DevMap::try_from(map).map_err(KernelError::call(what))?;
            devices.set(slot, ifindex, program, 0).map_err(KernelError::call(what))
        })
    }

    pub(super) fn remove_slot(&mut self, slot: u32) -> Result<(), KernelError> {
        let what = "emptying a devmap slot";
        let Some(devmap) = self.devmap.as_mut() else {
            return Ok(());
        };
        devmap.change(|map| match map {
            Map::DevMap(data) => sys::delete(&data.fd().as_fd(), slot).map_err(KernelError::call(what)),
            _ => Ok(()),
        })
    }

    /// A lease without a map behind it, for the model of the kernel.
    #[cfg(test)]
    pub(super) const fn model(id: u32, size: usize) -> Self {
        Self::new(id, size, None)
    }
}

/// What must not be used again while somebody may be walking there.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Indices of members.
    pub(crate) members: Vec<u32>,
    /// The lists of a table that is gone.
    pub(crate) heads: Vec<HeadKey>,
    /// Indices of next hops.
    pub(crate) hops: Vec<u32>,
    /// Indices of streams' counters and lists.
    pub(crate) stats: Vec<u32>,
}

impl Remains {
    /// Whether there is nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.members.is_empty() && self.heads.is_empty() && self.hops.is_empty() && self.stats.is_empty()
    }
}

/// How long somebody may still come to a place that nothing leads to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// While programs run that have begun already.
    Walked,
    /// While frames wait before a relay device that carry its number.
    Relayed,
}

/// Where tables come from and go back to.
pub(super) trait Tables {
    /// A table with at least `slots` slots.
    fn take(&mut self, slots: u32) -> Result<TableLease, KernelError>;
    /// Gives a table back that no stream names any more.
    fn retire(&mut self, table: TableLease, remains: Remains, until: Until);
    /// What was left behind by a table that nobody walks any more.
    fn poll_remains(&mut self) -> Option<Remains>;
}

/// What the thread is to do.
pub(super) enum Order {
    Make { size: usize, count: usize },
    Retire { table: Option<Box<TableLease>>, remains: Remains, until: Until },
}

/// What it has done.
pub(super) enum Delivery {
    Table(TableLease),
    Remains(Remains),
    /// So many tables of an order were not made.
    Failed {
        size: usize,
        count: usize,
        error: KernelError,
    },
}

/// The stock and the thread that fills it.
pub(super) struct TablePool {
    orders: Option<Sender<Order>>,
    deliveries: Receiver<Delivery>,
    stock: [VecDeque<TableLease>; SIZES.len()],
    target: [usize; SIZES.len()],
    ordered: [usize; SIZES.len()],
    remains: VecDeque<Remains>,
    failures: u64,
    thread: Option<JoinHandle<()>>,
}

impl TablePool {
    /// Starts the thread, which lays in a stock if tables will be needed.
    pub(super) fn start(outer: Map, tables: bool) -> Result<Self, KernelError> {
        let (orders, order_queue) = mpsc::channel();
        let (delivery_queue, deliveries) = mpsc::channel();
        let filler = Filler::new(OuterMap::new(outer)?);
        let thread = std::thread::Builder::new()
            .name("vmcast-tables".into())
            .spawn(move || filler.run(&order_queue, &delivery_queue))
            .map_err(KernelError::call("starting the table thread"))?;
        let mut pool = Self::new(orders, deliveries);
        pool.thread = Some(thread);
        if tables {
            for size in 0..SIZES.len() {
                pool.order(size);
            }
        }
        Ok(pool)
    }

    fn new(orders: Sender<Order>, deliveries: Receiver<Delivery>) -> Self {
        Self {
            orders: Some(orders),
            deliveries,
            stock: Default::default(),
            target: FIRST_STOCK,
            ordered: [0; SIZES.len()],
            remains: VecDeque::new(),
            failures: 0,
            thread: None,
        }
    }

    /// Orders what is missing to the target, once the stock is half empty.
    fn order(&mut self, size: usize) {
        let coming = self.stock[size].len() + self.ordered[size];
        if coming * 2 > self.target[size] || self.target[size] == 0 {
            return;
        }
        let count = self.target[size] - coming;
        self.ordered[size] += count;
        self.send(Order::Make { size, count });
    }

    /// Orders for a stock that was found empty.
    fn more(&mut self, size: usize) {
        self.target[size] = (self.target[size] * 2).clamp(1, MAX_STOCK);
        self.order(size);
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread ends only when this sender is dropped; if it panicked, `take` says so.
            let _ = orders.send(order);
        }
    }

    fn accept(&mut self, delivery: Delivery) -> Result<(), (usize, KernelError)> {
        match delivery {
            Delivery::Table(table) => {
                self.ordered[table.size] = self.ordered[table.size].saturating_sub(1);
                self.stock[table.size].push_back(table);
                Ok(())
            }
            Delivery::Remains(remains) => {
                self.remains.push_back(remains);
                Ok(())
            }
            Delivery::Failed { size, count, error } => {
                self.ordered[size] = self.ordered[size].saturating_sub(count);
                // From here one table is ordered when one is needed, and more only as that succeeds.
                self.target[size] = 0;
                Err((size, error))
            }
        }
    }

    /// Tells the operator of failures 1, 2, 4, 8 and so on: a peer can provoke many.
    fn note_failure(&mut self, size: usize, error: &KernelError) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (slots, failures) = (SIZES[size], self.failures);
            tracing::warn!(slots, failures, %error, "member tables cannot be made in advance");
        }
    }

    /// Lets something wait that is no table's.
    pub(super) fn wait(&self, remains: Remains, until: Until) {
        if !remains.is_empty() {
            self.send(Order::Retire { table: None, remains, until });
        }
    }

    fn accept_waiting(&mut self) {
        loop {
            match self.deliveries.try_recv() {
                Ok(delivery) => {
                    if let Err((size, error)) = self.accept(delivery) {
                        self.note_failure(size, &error);
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

impl Tables for TablePool {
    fn take(&mut self, slots: u32) -> Result<TableLease, KernelError> {
        let size = SIZES
            .iter()
            .position(|&size| size >= slots)
            .ok_or(KernelError::Full { table: "members of one stream", limit: SIZES[SIZES.len() - 1] })?;
        self.accept_waiting();
        if self.stock[size].is_empty() {
            self.more(size);
        }
        loop {
            if let Some(table) = self.stock[size].pop_front() {
                self.order(size);
                return Ok(table);
            }
            let delivery = self
                .deliveries
                .recv()
                .map_err(|_| KernelError::call("waiting for a member table")("its thread has ended"))?;
            if let Err((failed, error)) = self.accept(delivery) {
                if failed == size {
                    return Err(error);
                }
                self.note_failure(failed, &error);
            }
        }
    }

    fn retire(&mut self, table: TableLease, remains: Remains, until: Until) {
        self.send(Order::Retire { table: Some(Box::new(table)), remains, until });
    }

    fn poll_remains(&mut self) -> Option<Remains> {
        self.accept_waiting();
        self.remains.pop_front()
    }
}

impl Drop for TablePool {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bed {
        pool: TablePool,
        orders: Receiver<Order>,
        deliveries: Sender<Delivery>,
    }

    impl Bed {
        fn new() -> Self {
            let (orders, order_queue) = mpsc::channel();
            let (deliveries, delivery_queue) = mpsc::channel();
            Self { pool: TablePool::new(orders, delivery_queue), orders: order_queue, deliveries }
        }

        /// How many tables of the smallest size were ordered since the last time.
        fn ordered(&self) -> Vec<usize> {
            let count = |order| match order {
                Order::Make { size: 0, count } => Some(count),
                Order::Make { .. } | Order::Retire { .. } => None,
            };
            self.orders.try_iter().filter_map(count).collect()
        }

        fn deliver(&self, delivery: Delivery) {
            self.deliveries.send(delivery).unwrap();
        }
    }

    #[test]
    fn after_a_failure_tables_are_ordered_one_at_a_time_until_that_succeeds() {
        let mut bed = Bed::new();
        for _ in 0..2 {
            bed.pool.more(0);
            let count: usize = bed.ordered().iter().sum();
            let error = KernelError::call("creating a devmap")("out of room");
            assert!(bed.pool.accept(Delivery::Failed { size: 0, count, error }).is_err());
            assert_eq!(bed.pool.ordered[0], 0);
        }
        let mut id = 0;
        for wanted in [1, 2, 4] {
            bed.pool.more(0);
            assert_eq!(bed.ordered(), [wanted]);
            for _ in 0..wanted {
                id += 1;
                bed.pool.accept(Delivery::Table(TableLease::model(id, 0))).unwrap();
            }
            bed.pool.stock[0].clear();
        }
    }

    #[test]
    fn failures_of_another_size_do_not_spoil_a_table() {
        let mut bed = Bed::new();
        let error = KernelError::call("creating a devmap")("out of room");
        bed.deliver(Delivery::Failed { size: 0, count: 3, error });
        bed.deliver(Delivery::Table(TableLease::model(9, 1)));
        assert_eq!(bed.pool.take(8).unwrap().id(), 9);
        assert_eq!((bed.pool.failures, bed.pool.target[0]), (1, 0));
    }

    #[test]
    fn retired_tables_do_not_fill_the_stock() {
        let mut bed = Bed::new();
        for id in 1..=500 {
            let remains = || Remains { members: vec![id], ..Remains::default() };
            bed.pool.retire(TableLease::model(id, 0), remains(), Until::Walked);
            bed.deliver(Delivery::Remains(remains()));
        }
        assert_eq!(std::iter::from_fn(|| bed.pool.poll_remains()).count(), 500);
        assert!(bed.pool.stock.iter().all(VecDeque::is_empty));
        assert_eq!(bed.ordered(), [0; 0]);
    }
}
