//! User space of the data plane: load, attach, pin, typed maps, test runs.
