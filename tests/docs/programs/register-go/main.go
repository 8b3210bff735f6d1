// Runs the functions of the guide's Go package.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

func main() {
	ctx := context.Background()
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL")+"?sslmode=disable")
	if err != nil {
		log.Fatal(err)
	}
	if os.Args[1] == "register" {
		err = RegisterImage(ctx, db, os.Args[2], os.Args[3])
	} else {
		var status string
		status, err = ImageStatus(ctx, db, os.Args[2])
		fmt.Println(status)
	}
	if err != nil {
		log.Fatal(err)
	}
}
