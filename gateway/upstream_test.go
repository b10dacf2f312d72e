package main

import (
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

func TestCallsSkipConnectionsThatFailed(t *testing.T) {
	// Nothing listens here anymore.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var connections []*grpc.ClientConn
	for range 3 {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		connections = append(connections, connection)
	}
	for _, failed := range connections[:2] {
		failed.Connect()
		for state := failed.GetState(); state != connectivity.TransientFailure; state = failed.GetState() {
			failed.WaitForStateChange(t.Context(), state)
		}
	}

	for turn := range uint64(6) {
		if nextConnection(connections, turn) != connections[2] {
			t.Fatalf("turn %d: got a connection that failed", turn)
		}
	}
	for turn := range uint64(6) {
		if nextConnection(connections[:2], turn) != connections[turn%2] {
			t.Fatalf("turn %d: connections that failed do not take turns", turn)
		}
	}
}
