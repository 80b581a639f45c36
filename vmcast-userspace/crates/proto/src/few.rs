//! A map that mostly has one entry, which takes no memory of its own then: a node of a tree has room for eleven.

use std::collections::BTreeMap;

/// A map in the order of its keys.
#[derive(Clone, Debug)]
pub struct Few<K, V> {
    /// The only entry; `None` if there is none or `many` has them.
    one: Option<(K, V)>,
    many: BTreeMap<K, V>,
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Few<K, V> {
    /// One without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { one: None, many: BTreeMap::new() }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.many.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.one.is_none() && self.many.is_empty()
    }

    /// Every entry, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.one.iter().map(|(key, value)| (key, value)).chain(&self.many)
    }

    /// Every value, in the order of the keys.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.one.iter_mut().map(|(_, value)| value).chain(self.many.values_mut())
    }

    /// Every key, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

impl<K: Ord, V> Few<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        match &self.one {
            Some((known, value)) => (known == key).then_some(value),
            None => self.many.get(key),
        }
    }

    /// Whether there is a key.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entries of this key and of those after it, ascending.
    pub fn starting_at(&self, first: &K) -> impl Iterator<Item = (&K, &V)> {
        let one = self.one.iter().map(|(key, value)| (key, value)).filter(move |(key, _)| *key >= first);
        one.chain(self.many.range(first..))
    }

    /// Sets the value of a key; the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.one.take() {
            Some((known, old)) if known == key => {
                self.one = Some((key, value));
                return Some(old);
            }
            Some((known, old)) => drop(self.many.insert(known, old)),
            None if self.many.is_empty() => {
                self.one = Some((key, value));
                return None;
            }
            None => {}
        }
        self.many.insert(key, value)
    }

    /// Takes out a key; the value that it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        match self.one.take_if(|(known, _)| known == key) {
            Some((_, value)) => Some(value),
            None => {
                let value = self.many.remove(key);
                if self.many.is_empty() {
                    // The last node of a tree stays with it.
                    self.many = BTreeMap::new();
                }
                value
            }
        }
    }

    /// Keeps what this says.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        if self.one.as_mut().is_some_and(|(key, value)| !keeps(key, value)) {
            self.one = None;
        }
        self.many.retain(keeps);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u8),
        Remove(u8),
        Retain(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..4, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            3 => (0u8..4).prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut few, mut model) = (Few::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => prop_assert_eq!(few.insert(key, value), model.insert(key, value)),
                    Step::Remove(key) => prop_assert_eq!(few.remove(&key), model.remove(&key)),
                    Step::Retain(least) => {
                        few.retain(|_, value| *value >= least);
                        model.retain(|_, value| *value >= least);
                    }
                }
                prop_assert!(few.iter().eq(&model) && few.keys().eq(model.keys()));
                prop_assert_eq!((few.len(), few.is_empty()), (model.len(), model.is_empty()));
                for key in 0..4 {
                    prop_assert_eq!(few.get(&key), model.get(&key));
                    prop_assert_eq!(few.contains_key(&key), model.contains_key(&key));
                }
            }
        }
    }

    #[test]
    fn one_entry_has_no_node() {
        let mut few = Few::new();
        few.insert(1, ());
        assert!(few.many.is_empty());
        few.insert(2, ());
        few.insert(3, ());
        assert!(few.one.is_none());
        (1..4).for_each(|key| assert_eq!(few.remove(&key), Some(())));
        few.insert(4, ());
        assert!(few.many.is_empty());
    }
}
