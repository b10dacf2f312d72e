package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
	"os/exec"
	"syscall"
)

// startGateway runs the binary in its own process, with its access log, as in production.
func startGateway(binary, upstream string) (url string, stop func()) {
	command := exec.Command(binary, "--listen", "127.0.0.1:0", "--upstream", upstream)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stderr, err := command.StderrPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := command.Start(); err != nil {
		log.Fatal(err)
	}
	logLines := bufio.NewScanner(stderr)
	var event struct{ Msg, Address string }
	for event.Msg != "listening" && logLines.Scan() {
		if err := json.Unmarshal(logLines.Bytes(), &event); err != nil {
			log.Fatal(logLines.Text())
		}
	}
	go func() {
		for logLines.Scan() { // keep reading: a full pipe would block the gateway
		}
	}()
	return "http://" + event.Address, func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
	}
}
