//! Member tables (inner devmaps) made in advance.
//!
//! Putting a map into a map of maps waits for every CPU to have left the old one: 8 to 16 ms. A
//! join must not wait for that, so a thread keeps a stock of empty tables of each size. It also
//! takes back tables that are no longer used: replacing one by an empty one is the wait after which
//! nobody can still be walking it, and then its members may be used again.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread::JoinHandle,
};

use aya::{
    maps::{ArrayOfMaps, DevMap, Map, MapData, MapFd},
    programs::ProgramFd,
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP;
use vmcast_common::maps::{self, HeadKey, limit};

use super::{error::KernelError, index::Indices, sys};

/// Slots of the tables that are kept in stock, each four times the one before.
pub(super) const SIZES: [u32; 8] = [4, 16, 64, 256, 1024, 4096, 16_384, 65_536];
/// How many of each size are in stock at first.
const FIRST_STOCK: [usize; SIZES.len()] = [64, 32, 16, 4, 2, 0, 0, 0];
/// Largest stock of a size; it doubles each time it is found empty.
const MAX_STOCK: usize = 1024;

/// A member table that one stream owns.
#[derive(Debug)]
pub(super) struct TableLease {
    id: u32,
    size: usize,
    /// The devmap; `None` only in the model of the kernel.
    map: Option<Map>,
}

impl TableLease {
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
        program: &ProgramFd,
    ) -> Result<(), KernelError> {
        let what = "writing a devmap slot";
        let Some(map) = self.map.as_mut() else {
            return Ok(());
        };
        let mut devices = DevMap::try_from(map).map_err(KernelError::call(what))?;
        devices.set(slot, ifindex, Some(program), 0).map_err(KernelError::call(what))
    }

    pub(super) fn remove_slot(&mut self, slot: u32) -> Result<(), KernelError> {
        match &self.map {
            Some(Map::DevMap(data)) => {
                sys::delete(&data.fd().as_fd(), slot).map_err(KernelError::call("emptying a devmap slot"))
            }
            _ => Ok(()),
        }
    }

    /// A lease without a map behind it, for the model of the kernel.
    #[cfg(test)]
    pub(super) const fn model(id: u32, size: usize) -> Self {
        Self { id, size, map: None }
    }
}

/// What a table leaves behind that must not be used while somebody may walk it.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) members: Vec<u32>,
    pub(super) heads: Vec<HeadKey>,
}

/// Where tables come from and go back to.
pub(super) trait Tables {
    /// A table with at least `slots` slots.
    fn take(&mut self, slots: u32) -> Result<TableLease, KernelError>;
    /// Gives a table back that no stream names any more.
    fn retire(&mut self, table: TableLease, remains: Remains);
    /// What was left behind by a table that nobody walks any more.
    fn poll_remains(&mut self) -> Option<Remains>;
}

enum Order {
    Make { size: usize, count: usize },
    Retire { table: TableLease, remains: Remains },
}

enum Delivery {
    Table(TableLease),
    Remains(Remains),
    Failed { size: usize, error: KernelError },
}

/// The stock and the thread that fills it.
pub(super) struct TablePool {
    orders: Option<Sender<Order>>,
    deliveries: Receiver<Delivery>,
    stock: [VecDeque<TableLease>; SIZES.len()],
    target: [usize; SIZES.len()],
    ordered: [usize; SIZES.len()],
    remains: VecDeque<Remains>,
    thread: Option<JoinHandle<()>>,
}

impl TablePool {
    pub(super) fn start(outer: Map) -> Result<Self, KernelError> {
        let (orders, order_queue) = mpsc::channel();
        let (delivery_queue, deliveries) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("vmcast-tables".into())
            .spawn(move || {
                let ids = Indices::new(maps::TABLES, limit::TABLES);
                Filler { outer, ids, uses: Vec::new() }.run(&order_queue, &delivery_queue);
            })
            .map_err(KernelError::call("starting the table thread"))?;
        let mut pool = Self {
            orders: Some(orders),
            deliveries,
            stock: Default::default(),
            target: FIRST_STOCK,
            ordered: [0; SIZES.len()],
            remains: VecDeque::new(),
            thread: Some(thread),
        };
        for size in 0..SIZES.len() {
            pool.order(size);
        }
        Ok(pool)
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
            Delivery::Failed { size, error } => {
                self.ordered[size] = self.ordered[size].saturating_sub(1);
                Err((size, error))
            }
        }
    }

    fn accept_waiting(&mut self) {
        loop {
            match self.deliveries.try_recv() {
                Ok(delivery) => {
                    if let Err((size, error)) = self.accept(delivery) {
                        tracing::warn!(slots = SIZES[size], %error, "a member table could not be made in advance");
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
            self.target[size] = (self.target[size] * 2).clamp(1, MAX_STOCK);
            self.order(size);
            if self.ordered[size] == 0 {
                self.ordered[size] = 1;
                self.send(Order::Make { size, count: 1 });
            }
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
            if let Err((failed, error)) = self.accept(delivery)
                && failed == size
            {
                return Err(error);
            }
        }
    }

    fn retire(&mut self, table: TableLease, remains: Remains) {
        self.ordered[table.size] += 1;
        self.send(Order::Retire { table, remains });
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

/// The thread's side.
struct Filler {
    outer: Map,
    /// Places in the table of tables.
    ids: Indices,
    /// How often each place was used.
    uses: Vec<u32>,
}

impl Filler {
    fn run(mut self, orders: &Receiver<Order>, deliveries: &Sender<Delivery>) {
        while let Ok(first) = orders.recv() {
            let mut made = Vec::new();
            let mut remains = Vec::new();
            for order in std::iter::once(first).chain(orders.try_iter()) {
                let (size, count, id) = match order {
                    Order::Make { size, count } => (size, count, None),
                    Order::Retire { table, remains: left } => {
                        remains.push(left);
                        (table.size, 1, Some(maps::table_place(table.id)))
                    }
                };
                for _ in 0..count {
                    match self.make(size, id) {
                        Ok(table) => made.push(table),
                        Err(error) => {
                            let _ = deliveries.send(Delivery::Failed { size, error });
                        }
                    }
                }
            }
            let stored = self.store(&made);
            for table in made {
                let delivery = match &stored {
                    Ok(()) => Delivery::Table(table),
                    Err(error) => {
                        self.ids.give_back(maps::table_place(table.id));
                        let error = KernelError::call("storing a member table")(error.to_string());
                        Delivery::Failed { size: table.size, error }
                    }
                };
                let _ = deliveries.send(delivery);
            }
            // Members of a table that could not be replaced might still be walked: they are not
            // given back then.
            if stored.is_ok() {
                for left in remains {
                    let _ = deliveries.send(Delivery::Remains(left));
                }
            }
        }
    }

    fn make(&mut self, size: usize, place: Option<u32>) -> Result<TableLease, KernelError> {
        let what = "creating a devmap";
        let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP as u32, 4, 8, SIZES[size], 0);
        let data = MapData::create(definition, "vmcast_table", None).map_err(KernelError::call(what))?;
        let place = match place {
            Some(place) => place,
            None => self.ids.take()?,
        };
        Ok(TableLease { id: self.number(place), size, map: Some(Map::DevMap(data)) })
    }

    /// The next number of a place.
    fn number(&mut self, place: u32) -> u32 {
        let index = place as usize;
        if self.uses.len() <= index {
            self.uses.resize(index + 1, 0);
        }
        self.uses[index] = self.uses[index].wrapping_add(1);
        place | self.uses[index].wrapping_mul(limit::TABLES)
    }

    /// Stores tables with one wait for all of them, or one by one on a kernel without batches.
    fn store(&mut self, tables: &[TableLease]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (keys, inner): (Vec<u32>, Vec<&MapData>) = tables
            .iter()
            .filter_map(|table| match &table.map {
                Some(Map::DevMap(data)) => Some((maps::table_place(table.id), data)),
                _ => None,
            })
            .unzip();
        if keys.is_empty() {
            return Ok(());
        }
        let values: Vec<i32> = inner.iter().map(|data| data.fd().as_fd().as_raw_fd()).collect();
        if let Map::ArrayOfMaps(outer) = &self.outer
            && sys::update_map_of_maps(&outer.fd().as_fd(), &keys, &values).is_ok()
        {
            return Ok(());
        }
        let mut outer = ArrayOfMaps::<_, MapFd>::try_from(&mut self.outer)?;
        for (id, data) in keys.into_iter().zip(inner) {
            outer.set(id, data.fd(), 0)?;
        }
        Ok(())
    }
}
