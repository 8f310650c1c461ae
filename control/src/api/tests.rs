//! Tests of the API against a served socket.
