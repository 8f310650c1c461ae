//! Resources that users define: what a node has left of them, and which a task is given (swarmkit api/genericresource).

use std::collections::BTreeMap;

use crate::model::*;

/// What is left of one node's resources, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stock(BTreeMap<String, Left>);

#[derive(Clone, Debug, PartialEq)]
enum Left {
    Amount(i64),
    /// In the order in which the Engine names them.
    Names(Vec<String>),
}

impl Stock {
    /// Everything that a node has.
    pub fn new(resources: &[GenericResource]) -> Stock {
        let mut stock = BTreeMap::new();
        for resource in resources {
            let kind = resource.kind.clone();
            match &resource.name {
                None => {
                    stock.insert(kind, Left::Amount(resource.amount));
                }
                Some(name) => match stock.entry(kind).or_insert_with(|| Left::Names(Vec::new())) {
                    Left::Names(names) => names.push(name.clone()),
                    Left::Amount(_) => {}
                },
            }
        }
        Stock(stock)
    }

    /// Whether a task that asks for these amounts can be given them.
    pub fn has_enough(&self, asked: &[GenericResource]) -> bool {
        asked.iter().all(|wanted| match self.0.get(&wanted.kind) {
            Some(Left::Amount(left)) => wanted.amount <= *left,
            Some(Left::Names(names)) => usize::try_from(wanted.amount).is_ok_and(|n| n <= names.len()),
            None => false,
        })
    }

    /// Whether exactly these are there, the named ones by name.
    pub fn has(&self, given: &[GenericResource]) -> bool {
        given
            .iter()
            .all(|resource| match (self.0.get(&resource.kind), &resource.name) {
                (Some(Left::Amount(left)), None) => resource.amount <= *left,
                (Some(Left::Names(names)), Some(name)) => names.contains(name),
                _ => false,
            })
    }

    /// What a task that asks for these amounts is given: an amount of what has amounts, else as many names.
    pub fn choose(&self, asked: &[GenericResource]) -> Vec<GenericResource> {
        let mut given = Vec::new();
        for wanted in asked {
            let kind = &wanted.kind;
            match self.0.get(kind) {
                Some(Left::Amount(_)) if wanted.amount != 0 => given.push(wanted.clone()),
                Some(Left::Names(names)) => {
                    let count = usize::try_from(wanted.amount).unwrap_or(0);
                    given.extend(names.iter().take(count).map(|name| GenericResource {
                        kind: kind.clone(),
                        name: Some(name.clone()),
                        amount: 0,
                    }));
                }
                Some(Left::Amount(_)) | None => {}
            }
        }
        given
    }

    /// Takes what a task was given. What the node no longer has, or has in another form now, is passed over.
    pub fn take(&mut self, given: &[GenericResource]) {
        for resource in given {
            match (self.0.get_mut(&resource.kind), &resource.name) {
                (Some(Left::Amount(left)), None) => *left -= resource.amount,
                (Some(Left::Names(names)), Some(name)) => names.retain(|n| n != name),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(kind: &str, amount: i64) -> GenericResource {
        GenericResource {
            kind: kind.into(),
            name: None,
            amount,
        }
    }

    fn named(kind: &str, name: &str) -> GenericResource {
        GenericResource {
            kind: kind.into(),
            name: Some(name.into()),
            amount: 0,
        }
    }

    #[test]
    fn amounts_and_names_are_given_and_taken() {
        let mut stock = Stock::new(&[amount("SSD", 3), named("GPU", "a"), named("GPU", "b")]);
        let asked = [amount("SSD", 2), amount("GPU", 1)];
        assert!(stock.has_enough(&asked));
        let given = stock.choose(&asked);
        assert_eq!(given, [amount("SSD", 2), named("GPU", "a")]);
        assert!(stock.has(&given));
        stock.take(&given);
        assert!(!stock.has(&given));
        assert!(!stock.has_enough(&[amount("SSD", 2)]));
        assert!(!stock.has_enough(&[amount("GPU", 2)]));
        assert_eq!(stock.choose(&[amount("GPU", 1)]), [named("GPU", "b")]);
        assert!(!stock.has_enough(&[amount("FPGA", 1)]));
    }

    #[test]
    fn a_resource_that_changed_its_form_is_no_longer_had() {
        let mut stock = Stock::new(&[amount("GPU", 4)]);
        assert!(!stock.has(&[named("GPU", "a")]));
        stock.take(&[named("GPU", "a")]);
        assert!(stock.has(&[amount("GPU", 4)]));
    }
}
