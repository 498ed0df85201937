//! The API's content as a black box: the program itself over a private PostgreSQL, with real receivers and a small server that
//! behaves as Sigfox's does. All tests share one running program; each makes tenants of its own.

mod changes;
mod closed;
mod engine;
mod golden;
mod identity;
mod open_data;
mod refusals;
mod roles;
mod search;
mod secret_matrix;
mod secrets;
mod server;
mod shapes;
mod sigfox;
mod sigfox_server;
mod smtp;
mod trials;
