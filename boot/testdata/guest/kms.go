package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// How long, and how often, the stand-ins of fetchkey ask again. PID 1's bounds are
// longer.
const (
	askAgainFor   = 6 * time.Second
	askAgainAfter = 200 * time.Millisecond
)

// keyServer returns the address of the case's key server and this launch's name,
// from the word guest.kms:HOST:PORT:LAUNCH of the command line. The program that
// closes volumes has no other source for both.
func keyServer() (address, launch string, ok bool) {
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		if rest, found := strings.CutPrefix(word, "guest.kms:"); found {
			at := strings.LastIndex(rest, ":")
			return rest[:at], rest[at+1:], true
		}
	}
	return "", "", false
}

// ask sends one line to the key server and returns the text of the answer. If the
// key server is busy or cannot be reached, ask sends the same line again, as
// fetchkey does.
func ask(address, line string) (string, error) {
	var last error
	for end := time.Now().Add(askAgainFor); time.Now().Before(end); time.Sleep(askAgainAfter) {
		answer, err := askOnce(address, line)
		if err != nil {
			last = err
			continue
		}
		verb, about, _ := strings.Cut(answer, " ")
		switch verb {
		case "ok":
			return about, nil
		case "busy":
			last = fmt.Errorf("key server cannot answer now: %s", about)
		default:
			return "", fmt.Errorf("key server refuses: %s", about)
		}
	}
	return "", fmt.Errorf("giving up: %w", last)
}

func askOnce(address, line string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(line + "\n")); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// askForVolume gets a volume's release and gives it to PID 1.
func askForVolume(address, launch, volume string) {
	var request [32]byte
	rand.Read(request[:])
	answer, err := ask(address, fmt.Sprintf("release %s %s %x", volume, launch, request))
	if err != nil {
		fail("fetchkey: release: %v", err)
	}
	reply, err := hex.DecodeString(answer)
	if err != nil {
		fail("fetchkey: release: %v", err)
	}
	os.NewFile(3, "pipe").Write(reply)
}

// sendCommit tells the key server that a volume was closed.
func sendCommit(address, launch, volume, request string) {
	if _, err := ask(address, fmt.Sprintf("commit %s %s %s", volume, launch, request)); err != nil {
		fail("fetchkey: commit: %v", err)
	}
}

// hold waits until the key server lets this launch go on.
func hold() {
	address, launch, _ := keyServer()
	say("holding")
	for range 100 {
		if _, err := ask(address, "hold - "+launch+" -"); err == nil {
			return
		}
	}
}
