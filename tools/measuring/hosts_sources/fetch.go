// fetch COUNT URL...: net/http, with a new connection for each request.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	for i := 0; i < count; i++ {
		answer, err := client.Get(os.Args[2+i%(len(os.Args)-2)])
		if err != nil {
			fmt.Println("failed", err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Println("got", strings.TrimSpace(string(body)))
	}
}
