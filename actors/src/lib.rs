//! actors: being built.
